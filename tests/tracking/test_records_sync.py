"""``python -m csa.records mode=sync`` hands over to the tracker."""

from __future__ import annotations

from pathlib import Path

import pytest
from recorded_runs import begin, named

from csa import records
from csa.tracking import watched
from csa.tracking.mlflow import store
from csa.tracking.watched import Synced


@pytest.fixture
def calls(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    begin(Path("outputs"), named("aa"))
    received = []

    def send(*arguments):
        received.append(arguments)
        return answers

    answers: list[Synced] = []
    monkeypatch.setattr(watched, "sync", send)
    received.append(answers)
    return received


def test_the_store_of_the_configuration_is_told(calls, capsys):
    calls[0].append(Synced(Path("outputs/a"), "sent 3 epochs and 2 files"))
    words = ["tracking.uri=sqlite:///other.db", "tracking.experiment=mine"]
    assert records.main(["mode=sync", *words, "tracking.model=false"]) == 0
    folder, tracker = calls[1]
    assert (folder, tracker.settings.uri) == (Path("outputs"), "sqlite:///other.db")
    assert (tracker.settings.experiment, tracker.settings.model) == ("mine", False)
    assert capsys.readouterr().out == "outputs/a: sent 3 epochs and 2 files\n"


def test_a_run_that_could_not_be_sent_shows_in_the_status(calls, capsys):
    calls[0].append(Synced(Path("outputs/a"), "failed: full", failed=True))
    assert records.main(["mode=sync"]) == 1
    assert capsys.readouterr().out == "outputs/a: failed: full\n"


def test_a_store_that_cannot_be_reached(tmp_path, monkeypatch, calls, capsys):
    def fail(_):
        raise RuntimeError("connection refused\nmore")

    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(store, "connect", fail)
    with pytest.raises(SystemExit, match="2"):
        records.main(["mode=sync", "tracking.uri='http://me:secret@host'"])
    told = capsys.readouterr().err
    assert "tracking.uri=http://***@host: cannot be reached: connection refused" in told
    assert "secret" not in told
    with pytest.raises(SystemExit, match="2"):
        records.main(["mode=sync", "tracking=none"])
    assert "tracking=none: sends nothing anywhere" in capsys.readouterr().err
