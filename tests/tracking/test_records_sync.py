"""``python -m csa.records mode=sync`` hands over to the mirror."""

from __future__ import annotations

from pathlib import Path

import pytest
from recorded_runs import begin, named

import csa.tracking.sync
from csa import records
from csa.tracking.sync import Synced


@pytest.fixture
def calls(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    begin(Path("outputs"), named("aa"))
    received = []

    def send(*arguments):
        received.append(arguments)
        return answers

    answers: list[Synced] = []
    monkeypatch.setattr(csa.tracking.sync, "sync", send)
    received.append(answers)
    return received


def test_the_store_of_the_configuration_is_told(calls, capsys):
    calls[0].append(Synced(Path("outputs/a"), epochs=3, artifacts=2))
    words = ["tracking.uri=sqlite:///other.db", "tracking.experiment=mine"]
    assert records.main(["mode=sync", *words, "tracking.model=false"]) == 0
    assert calls[1] == (Path("outputs"), "sqlite:///other.db", "mine", None)
    assert capsys.readouterr().out == "outputs/a: sent 3 epochs and 2 files\n"
    records.main(["mode=sync", "tracking.model=true"])
    assert calls[2] == (Path("outputs"), None, "csa", "csa.training.recorded.head_network")


def test_a_run_that_could_not_be_sent_shows_in_the_status(calls, capsys):
    calls[0].append(Synced(Path("outputs/a"), left="failed: full"))
    assert records.main(["mode=sync"]) == 1
    assert capsys.readouterr().out == "outputs/a: failed: full\n"


def test_a_store_that_cannot_be_reached(tmp_path, monkeypatch, calls, capsys):
    def fail(*_):
        raise RuntimeError("connection refused\nmore")

    monkeypatch.setattr(csa.tracking.sync, "sync", fail)
    with pytest.raises(SystemExit, match="2"):
        records.main(["mode=sync", "tracking.uri='http://me:secret@host'"])
    told = capsys.readouterr().err
    assert "tracking.uri=http://***@host: cannot be reached: connection refused" in told
    assert "secret" not in told
