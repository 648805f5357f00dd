"""Where runs come from, which of two records counts, and what is said of those that cannot."""

from __future__ import annotations

import copy
import json
import operator
import shutil
from dataclasses import MISSING, fields
from functools import reduce

import numpy as np
import pytest
from miniature_records import make, write

from csa.config.faults import UserError
from csa.config.schema import BackboneConfig, DatasetConfig, MethodConfig, ProtocolConfig, SamplerConfig, StageTwoConfig
from csa.tracking import exported, sweeps
from csa.tracking.finding import Found, from_folders, from_mlflow, from_records
from csa.tracking.mlflow.artifacts import send
from csa.tracking.mlflow.store import run_ids, uri_of
from csa.tracking.tracker import tracker_of
from csa.tracking.watched import sync

KINDS = (DatasetConfig, SamplerConfig, MethodConfig, BackboneConfig, ProtocolConfig, StageTwoConfig)


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
    own, other = sorted(found.runs, key=lambda run: run.seed)
    assert (own.folder, other.path.parent) == (record.folder, tmp_path / "records" / "mnist_lt" / "ce")
    assert not found.notes
    make(tmp_path / "outputs", "mnist_lt", "ce", 0, shares=(0.1, 0.1, 0.1))
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
    (note,) = found.notes
    assert note.endswith(f"than {path} on another device (cuda), which is taken")


def test_the_record_of_a_sweep_is_no_exported_run(tmp_path):
    path = write(tmp_path, "mnist_lt", "ce", 0)
    sweep = sweeps.SweepRecord(tmp_path, "ce-0123ab", "mnist_lt: seed")
    sweep.begin([])
    assert len(list(tmp_path.glob("*/*/*.json"))) == 2
    assert [run.path for run in from_records(tmp_path)] == [path]


def test_both_hold_the_same(tmp_path):
    make(tmp_path / "outputs", "mnist_lt", "csa", 0)
    write(tmp_path / "records", "mnist_lt", "csa", 0)
    (folder,), (record,) = from_folders(tmp_path / "outputs"), from_records(tmp_path / "records")
    assert folder.result == record.result
    assert np.array_equal(folder.predictions("mean"), record.predictions("mean"))
    assert np.array_equal(folder.labels, record.labels)
    assert [line["loss"] for line in folder.metrics()] == pytest.approx(
        [line["loss"] for line in record.metrics()], rel=1e-5
    )


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.write_text(path.read_text()[:100]), "cannot be read"),
        (lambda path: path.write_text(json.dumps({**json.loads(path.read_text()), "schema": 0})), "has schema 0"),
        (lambda path: change(path, seconds=float("nan")), "cannot be read (ValueError: NaN is no number)"),
        (lambda path: change(path, seconds=-1), "cannot be used: result.seconds=-1: is out of range"),
        (lambda path: change(path, heads={"classifier": {}}), "result.heads.classifier.last: is missing"),
        (lambda path: change(path, head="tail"), "head=tail: is none of its heads"),
        (lambda path: change(path, fingerprint="f" * 12), "its result is another run's"),
        (lambda path: path.with_suffix(".npz").write_bytes(path.with_suffix(".npz").read_bytes()[:-9]), "BadZipFile"),
        (lambda path: np.savez(path.with_suffix(".npz"), metrics=np.array([91, 93], np.uint8)), "holds heads  instead"),
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


def places(content, at=()):
    """Of every field, however deep."""
    for name, value in content.items():
        yield (*at, name)
        if isinstance(value, dict) and name != "packages":
            yield from places(value, (*at, name))


def damaged(content, place, *other):
    """With another value there, or without the field."""
    content = copy.deepcopy(content)
    block = reduce(operator.getitem, place[:-1], content)
    block.update({place[-1]: other[0]} if other else {})
    if not other:
        del block[place[-1]]
    return content


def test_every_field_that_is_lost_or_of_another_type_is_noticed(tmp_path, monkeypatch):
    path = write(tmp_path, "mnist_lt", "ce", 0)
    whole = json.loads(path.read_text())
    later = {one.name for kind in KINDS for one in fields(kind)
             if one.default is not MISSING or not one.metadata.keys().isdisjoint(("neutral", "later"))}  # fmt: skip
    for place in places(whole):
        of_another_type = "[/red]" if isinstance(reduce(operator.getitem, place, whole), dict) else {"name": 1}
        contents = [damaged(whole, place, of_another_type)]
        contents += [] if place[0] == "config" and place[-1] in later else [damaged(whole, place)]
        for content in contents:
            monkeypatch.setattr(exported, "read_json", lambda _, content=content: content)
            (text,) = from_records(tmp_path)
            assert isinstance(text, str), place
            assert str(path) in text, place


def test_a_run_folder_of_an_older_schema_is_named(tmp_path):
    record = make(tmp_path, "mnist_lt", "ce", 0)
    change(record.folder / "result.json", schema=0)
    (text,) = from_folders(tmp_path)
    assert "has schema 0, this version reads 2" in text


def test_an_absent_folder_has_no_runs(tmp_path):
    assert list(from_folders(tmp_path / "no")) == []
    assert list(from_records(tmp_path / "no")) == []


def test_what_only_mlflow_has_comes_back_and_figures_go_there(tmp_path, uri, configuration):
    first, second = (make(tmp_path / "outputs", "mnist_lt", "ce", seed) for seed in (0, 1))
    tracking = configuration("tracking=mlflow", f"tracking.uri='{uri}'", "tracking.model=false").tracking
    list(sync(tmp_path / "outputs", tracker_of(tracking)))
    known = {run.fingerprint: run for run in from_folders(tmp_path / "outputs")}
    assert not list(from_mlflow(uri, "csa", known))
    shutil.rmtree(second.folder)
    (run,) = from_mlflow(uri, "csa", [first.result["fingerprint"]])
    before = next(run for run in known.values() if run.seed == 1)
    assert (run.fingerprint, run.identity) == (before.fingerprint, before.identity)
    assert run.where.startswith("MLflow run ")
    assert run.result == before.result
    assert len(run.predictions("classifier")) == 40
    assert list(from_mlflow(uri, "another", [])) == []

    files = {"curves.png": b"p", "curves.svg": b"s"}
    assert send({run.fingerprint: files, "ffffffffffff": files}, uri, "csa") == 1
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
