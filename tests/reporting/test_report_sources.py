"""Where runs come from, which of two records counts, and what is said of those that cannot."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from miniature_records import make, write

from csa.config.faults import UserError
from csa.reporting.layout import Drawn
from csa.reporting.mlflow_store import from_mlflow, run_ids, send, uri_of
from csa.reporting.sources import Found, from_folders, from_records
from csa.tracking.sync import sync


def change(path, **more):
    content = json.loads(path.read_text())
    block = content if path.name == "result.json" else content["result"]
    block.update(more)
    path.write_text(json.dumps(content))


def test_the_run_folder_counts_before_its_exported_record(tmp_path):
    record = make(tmp_path / "outputs", "mnist_lt", "ce", 0)
    write(tmp_path / "records", "mnist_lt", "ce", 0)
    write(tmp_path / "records", "mnist_lt", "ce", 1)
    found = Found()
    found.add(from_folders(tmp_path / "outputs"))
    found.add(from_records(tmp_path / "records"))
    assert [(run.seed, run.origin) for run in sorted(found.runs, key=lambda run: run.seed)] == [
        (0, "folder"),
        (1, "record"),
    ]
    assert not found.notes
    change(record.folder / "result.json", heads={"classifier": other_scores(record)})
    again = Found()
    again.add(from_folders(tmp_path / "outputs"))
    again.add(from_records(tmp_path / "records"))
    (note,) = again.notes
    assert note.endswith(f"tells of other accuracies than {record.folder}, which is taken")


def test_of_one_run_on_two_devices_one_counts(tmp_path):
    write(tmp_path, "mnist_lt", "ce", 0)
    path = write(tmp_path, "mnist_lt", "ce", 0, shares=(0.1, 0.1, 0.1), device="cuda", hardware="a GPU")
    assert path.stem.endswith("-cuda")
    found = Found()
    found.add(from_records(tmp_path))
    assert [run.result["hardware"] for run in found.runs] == ["a GPU"]
    assert not found.notes


def other_scores(record):
    scores = record.result()["heads"]["classifier"]
    return {**scores, "last": {**scores["last"], "all": 1.5}}


def test_both_hold_the_same(tmp_path):
    make(tmp_path / "outputs", "mnist_lt", "csa", 0)
    write(tmp_path / "records", "mnist_lt", "csa", 0)
    (folder,), (record,) = from_folders(tmp_path / "outputs"), from_records(tmp_path / "records")
    assert folder.result == record.result
    assert np.array_equal(folder.evidence.predictions("mean"), record.evidence.predictions("mean"))
    assert np.array_equal(folder.evidence.labels, record.evidence.labels)
    assert [line["loss"] for line in folder.evidence.metrics()] == pytest.approx(
        [line["loss"] for line in record.evidence.metrics()], rel=1e-5
    )


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.write_text(path.read_text()[:100]), "cannot be read"),
        (lambda path: path.write_text(json.dumps({**json.loads(path.read_text()), "schema": 0})), "has schema 0"),
        (lambda path: change(path, seconds=float("nan")), "seconds are not a finite number"),
        (lambda path: change(path, heads={"classifier": {}}), "cannot be read (KeyError: 'last')"),
        (lambda path: change(path, head="tail"), "cannot be read (KeyError: 'tail')"),
    ],
)
def test_a_record_that_cannot_be_used_is_named_and_the_others_count(tmp_path, damage, said):
    path = write(tmp_path, "mnist_lt", "ce", 0)
    write(tmp_path, "mnist_lt", "ce", 1)
    damage(path)
    found = Found()
    found.add(from_records(tmp_path))
    (text,) = found.left_out
    assert path.name in text
    assert said in text
    assert [run.seed for run in found.runs] == [1]


@pytest.mark.parametrize("value", [float("nan"), -1, 101, "high"])
def test_an_accuracy_that_is_no_percentage_is_named(tmp_path, value):
    path = write(tmp_path, "mnist_lt", "ce", 0)
    content = json.loads(path.read_text())
    content["result"]["heads"]["classifier"]["best_on_test"]["all"] = value
    path.write_text(json.dumps(content))
    (text,) = from_records(tmp_path)
    assert text == f"{path}: accuracy 'all' (head 'classifier', best_on_test) is {value}, not a percentage"


def test_a_run_folder_of_an_older_schema_is_named(tmp_path):
    record = make(tmp_path, "mnist_lt", "ce", 0)
    change(record.folder / "result.json", schema=0)
    (text,) = from_folders(tmp_path)
    assert "has schema 0, this version reads 2" in text


def test_an_absent_folder_has_no_runs(tmp_path):
    assert list(from_folders(tmp_path / "no")) == []
    assert list(from_records(tmp_path / "no")) == []


def test_what_only_mlflow_has_comes_back_and_figures_go_there(tmp_path, uri):
    first, second = (make(tmp_path / "outputs", "mnist_lt", "ce", seed) for seed in (0, 1))
    list(sync(tmp_path / "outputs", uri, "csa", None))
    known = {run.fingerprint: run for run in from_folders(tmp_path / "outputs")}
    assert not list(from_mlflow(uri, "csa", known))
    shutil.rmtree(second.folder)
    (run,) = from_mlflow(uri, "csa", [first.result()["fingerprint"]])
    before = next(run for run in known.values() if run.seed == 1)
    assert (run.origin, run.fingerprint, run.identity) == ("mlflow", before.fingerprint, before.identity)
    assert run.result == before.result
    assert len(run.evidence.predictions("classifier")) == 40
    assert list(from_mlflow(uri, "another", [])) == []

    drawn = Drawn("curves", "caption", {"png": b"p", "svg": b"s"}, (run.fingerprint, "ffffffffffff"))
    assert send([drawn], uri, "csa") == 1
    client, ids = run_ids(uri, "csa")
    names = {file.path for file in client.list_artifacts(ids[run.fingerprint], "figures")}
    assert names == {"figures/curves.png", "figures/curves.svg"}


def test_a_store_that_cannot_be_reached_is_a_fault(tmp_path):
    with pytest.raises(UserError, match=r"tracking\.uri=sqlite.*cannot be reached: there is no file"):
        list(from_mlflow(f"sqlite:///{tmp_path / 'no.db'}", "csa", []))
    (tmp_path / "text.db").write_text("this is no database")
    with pytest.raises(UserError, match="cannot be reached"):
        list(from_mlflow(f"sqlite:///{tmp_path / 'text.db'}", "csa", []))


def test_no_store_is_asked_where_none_is_named_and_none_lies(configuration, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert uri_of(configuration("tracking=mlflow").tracking) is None
    assert uri_of(configuration("tracking=none").tracking) is None
    named = configuration("tracking=mlflow", "tracking.uri='http://host:1'").tracking
    assert uri_of(named) == "http://host:1"
