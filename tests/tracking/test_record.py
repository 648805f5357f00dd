"""The local record: its files tell its state."""

from __future__ import annotations

import json

import numpy as np
import pytest

from csa.tracking.lease import Lease
from csa.tracking.record import OldRecordError, Record


@pytest.fixture
def record(tmp_path):
    return Record(tmp_path / "run")


def begin(record: Record) -> None:
    record.begin("seed: 0\n", {"seed": 0}, "abc")


def test_state_follows_the_files(record):
    assert record.state == "planned"
    begin(record)
    assert record.state == "interrupted"
    with Lease(record.folder):
        assert record.state == "running"
    record.fail({"reason": "no reason"})
    assert record.state == "failed"
    begin(record)
    assert record.state == "interrupted"
    record.finish({"all": 12.5}, {"labels": np.arange(3)})
    assert record.state == "done"
    assert record.result() == {"schema": 1, "all": 12.5}
    assert np.load(record.folder / "test_outputs.npz")["labels"].tolist() == [0, 1, 2]


def test_a_cut_last_line_of_the_metrics_does_not_count(record):
    begin(record)
    record.append_metrics({"epoch": 0})
    record.append_metrics({"epoch": 1})
    with (record.folder / "metrics.jsonl").open("a") as stream:
        stream.write('{"epo')
    assert record.metrics() == [{"epoch": 0}, {"epoch": 1}]
    record.write_metrics([{"epoch": 0}])
    assert record.metrics() == [{"epoch": 0}]


def test_a_result_of_another_schema_says_so(record):
    begin(record)
    (record.folder / "result.json").write_text(json.dumps({"schema": 0}))
    with pytest.raises(OldRecordError, match="has schema 0, this version reads 1"):
        record.result()


def test_starting_over_keeps_only_the_log(record):
    begin(record)
    record.log("first try")
    record.finish({"all": 1.0}, {})
    (record.folder / "checkpoint.pt").touch()
    record.start_over()
    assert record.state == "interrupted"
    assert sorted(path.name for path in record.folder.iterdir()) == ["config.yaml", "identity.json", "log.txt"]


def test_another_head_stands_for_a_finished_run(record):
    record.begin("method: {name: csa, primary_head: uniform}\nseed: 0\n", {"seed": 0}, "abc")
    uniform = {"all": 40.0, "many": 60.0, "medium": 40.0, "few": None, "predicted_classes": 3}
    balanced = {"all": 10.0, "many": 0.0, "medium": 10.0, "few": None, "predicted_classes": 1}
    heads = {"uniform": {"last": uniform}, "balanced": {"last": balanced}}
    groups = {"all": 40.0, "many": 60.0, "medium": 40.0, "few": None}
    result = {"head": "uniform", "collapsed": False, "heads": heads, "seconds": 2.0, **groups}
    record.finish(result, {})
    assert not record.let_stand("uniform")
    assert record.result() == {"schema": 1, **result}
    assert record.let_stand("balanced")
    groups = {"all": 10.0, "many": 0.0, "medium": 10.0, "few": None}
    assert record.result() == {"schema": 1, **result, **groups, "head": "balanced", "collapsed": True}
    config = (record.folder / "config.yaml").read_text()
    assert config == "method:\n  name: csa\n  primary_head: balanced\nseed: 0\n"
    assert "the head that stood for the run was uniform, now balanced" in (record.folder / "log.txt").read_text()


def test_a_number_that_is_not_finite_never_reaches_a_file(record):
    begin(record)
    with pytest.raises(ValueError, match="not JSON compliant"):
        record.finish({"all": float("nan")}, {})
    assert record.state == "interrupted"
