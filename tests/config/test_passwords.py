"""Passwords in addresses: masked wherever text is shown or stored, and in no command line of a process of ours."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csa.config.faults import Fault, hidden, without_passwords
from csa.sweep.processes import command_of
from csa.tracking.record import Record


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:secret@host:5000/x", "https://***@host:5000/x"),
        ("mysql+pymysql://me:se/cr@et@host/db", "mysql+pymysql://***@host/db"),
        ("(http://token@host/x) and 'http://a:b@i'", "(http://***@host/x) and 'http://***@i'"),
        ("postgresql://host/db?user=me&password=secret&ssl=1", "postgresql://host/db?user=me&password=***&ssl=1"),
        ("https://host/?api_key=secret'", "https://host/?api_key=***'"),
        ("http://host:5000/x", "http://host:5000/x"),
        ("sqlite:////home/me@work/mlflow.db", "sqlite:////home/me@work/mlflow.db"),
        ("//server/me@work/d.npz", "//server/me@work/d.npz"),
        ("delta=0.8 dataset.path=a@b", "delta=0.8 dataset.path=a@b"),
    ],
)
def test_what_is_shown_of_an_address(text, shown):
    assert without_passwords(text) == shown
    assert str(Fault("a", None, text)) == f"a: {shown}"


WRITTEN = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="'\"@"), min_size=1)


@given(st.sampled_from(["http", "postgresql", "mysql+pymysql"]), WRITTEN)
def test_any_password_of_visible_characters(scheme, password):
    text = f"tracking.uri: {scheme}://me:{password}@host:5/db"
    assert without_passwords(text) == f"tracking.uri: {scheme}://***@host:5/db"


def test_a_record_has_none(tmp_path):
    record = Record(tmp_path)
    record.begin("tracking: {uri: 'http://me:secret@host'}\n", {}, "ab")
    record.log("http://me:secret@host is away")
    record.fail({"reason": "http://me:secret@host is away"})
    assert (tmp_path / "config.yaml").read_text() == "tracking: {uri: 'http://***@host'}\n"
    assert "secret" not in "".join(path.read_text() for path in tmp_path.iterdir())


@pytest.mark.parametrize("word", ["tracking.uri=http://me:secret@host", "+tracking.uri='http://me:secret@host'"])
def test_words_with_one_reach_other_processes_by_the_environment(word, monkeypatch, tmp_path):
    monkeypatch.setitem(os.environ, "CSA_HIDDEN_TRACKING_URI", "")
    key = word.partition("=")[0]
    assert hidden(["seed=3", word]) == ["seed=3", f"{key}=${{oc.env:CSA_HIDDEN_TRACKING_URI}}"]
    assert os.environ["CSA_HIDDEN_TRACKING_URI"] == "http://me:secret@host"
    config = SimpleNamespace(rerun=False, tracking=SimpleNamespace(of_a_sweep=list))
    run = SimpleNamespace(words=("seed=3", word), config=config, record=Record(tmp_path))
    assert "secret" not in " ".join(command_of(run, []))  # type: ignore[arg-type]
