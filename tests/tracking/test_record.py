"""The local record: its files tell its state."""

from __future__ import annotations

import errno
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from test_lease import without_locks
from whole_records import CONFIG, IDENTITY, LINE, evaluation, whole_result, whole_split

from csa.config.faults import RecordError
from csa.tracking import files
from csa.tracking.description import SINCE_2
from csa.tracking.lease import Lease
from csa.tracking.record import Record


@pytest.fixture
def record(tmp_path):
    return Record(tmp_path / "run")


def begin(record: Record) -> None:
    record.begin(CONFIG, IDENTITY, "abc")


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
    record.finish(whole_result(), {"labels": np.arange(3)})
    assert record.state == "done"
    assert record.result == {"schema": 2, **whole_result()}
    assert np.load(record.folder / "test_outputs.npz")["labels"].tolist() == [0, 1, 2]


def test_nothing_is_left_of_a_run_that_is_refused(tmp_path):
    first, again = (Record(tmp_path / "digits_lt" / "csa" / name) for name in ("first", "again"))
    for record in (first, again):
        begin(record)
        with Lease(record.folder):
            pass
    again.log("started a week ago")
    first.take_back()
    assert [path.name for path in tmp_path.glob("*/*/*")] == ["again"]
    again.take_back()
    assert (again.state, {path.name for path in again.folder.iterdir()}) == ("planned", {"lease.lock", "log.txt"})
    (again.folder / "log.txt").unlink()
    again.take_back()
    assert not list(tmp_path.iterdir())


def test_a_cut_last_line_of_the_metrics_does_not_count(record):
    begin(record)
    lines = [LINE | {"epoch": epoch} for epoch in (0, 1)]
    for line in lines:
        record.append_metrics(line)
    with (record.folder / "metrics.jsonl").open("a") as stream:
        stream.write('{"epo')
    assert record.metrics() == lines
    record.write_metrics(lines[:1])
    assert record.metrics() == lines[:1]


def test_a_result_of_another_schema_says_so(record):
    begin(record)
    (record.folder / "result.json").write_text(json.dumps({"schema": 0}))
    with pytest.raises(RecordError, match="has schema 0, this version reads 2"):
        _ = record.result


def of_schema_1(values: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in SINCE_2} | more


OLD = of_schema_1(
    whole_result(),
    schema=1,
    split=whole_split(
        by_rank={"many": [0], "medium": [1, 2], "few": []}, by_count={"many": [], "medium": [0], "few": [1, 2]}
    ),
    heads={
        "only": {
            "last": of_schema_1(evaluation(), all=60.0, many=80.0, medium=40.0, ece=3.5, per_class=[80.0, 50.0, 0.0]),
            "best_on_test": of_schema_1(
                evaluation(), all=70.0, many=80.0, medium=60.0, ece=2.5, per_class=[80.0, 75.0, 0.0], epoch=4
            ),
            "holdout": of_schema_1(evaluation(), all=50.0, medium=50.0, ece=1.5, per_class=[50.0, 50.0, 50.0]),
        }
    },
)
"""Of schema 1, where a group's accuracy was its share of right images: 5, 4 and 1 of them."""
CONFUSION = np.array([[4, 1, 0], [1, 2, 1], [0, 1, 0]])


def old(record: Record, **arrays: np.ndarray) -> None:
    begin(record)
    np.savez(record.folder / "test_outputs.npz", **arrays)
    (record.folder / "result.json").write_text(json.dumps(OLD))


def test_a_result_of_schema_1_is_scored_anew(record):
    old(record, confusion_only=CONFUSION)
    result = record.result
    only = result["heads"]["only"]
    f1 = 100 * (2 * 4 / (5 + 5) + 2 * 2 / (4 + 4) + 0) / 3
    assert only["last"] == {
        "all": 60.0, "balanced": pytest.approx(130 / 3), "many": 80.0, "medium": 25.0, "few": None,
        "macro_f1": pytest.approx(f1), "g_mean": 0.0, "by_count": {"many": None, "medium": 80.0, "few": 25.0},
        "per_class": [80.0, 50.0, 0.0], "ece": 3.5, "predicted_classes": 3,
    }  # fmt: skip
    assert (only["best_on_test"]["medium"], only["best_on_test"]["all"], only["best_on_test"]["epoch"]) == (37.5, 70, 4)
    assert (only["best_on_test"]["macro_f1"], only["best_on_test"]["ece"]) == (None, 2.5)
    assert (only["holdout"]["g_mean"], only["holdout"]["macro_f1"]) == (pytest.approx(50), None)
    assert (result["schema"], result["medium"], result["macro_f1"]) == (2, 25.0, only["last"]["macro_f1"])
    assert json.loads((record.folder / "result.json").read_text()) == OLD


@pytest.mark.parametrize(
    ("arrays", "why"),
    [
        (
            {"confusion_only": np.array([[3, 2, 0], [0, 3, 1], [0, 1, 0]])},
            "the class accuracies recorded are not those predicted",
        ),
        ({"confusion_only": CONFUSION + 1}, "60.0 % recorded, "),
        ({}, "confusion_only is not a file in the archive"),
    ],
)
def test_a_result_of_schema_1_without_its_predictions_says_so(record, arrays, why):
    old(record, **arrays)
    with pytest.raises(RecordError, match=r"test_outputs.npz: cannot be read") as raised:
        _ = record.result
    assert why in str(raised.value)


def test_starting_over_keeps_only_the_log(record):
    begin(record)
    record.log("first try")
    record.finish({"all": 1.0}, {})
    (record.folder / "checkpoint.pt").touch()
    record.start_over()
    assert record.state == "interrupted"
    assert sorted(path.name for path in record.folder.iterdir()) == ["config.yaml", "identity.json", "log.txt"]


def test_another_head_and_other_groups_stand_for_a_finished_run(record):
    record.begin(CONFIG.replace("streams: sampler", "streams: sampler, primary_head: uniform"), IDENTITY, "abc")
    by_rank = {"many": [0], "medium": [1, 2], "few": [3]}
    uniform = evaluation(all=40.0, per_class=[100.0, 50.0, 30.0, None])
    balanced = evaluation(all=10.0, per_class=[0.0, 0.0, 0.0, 40.0], predicted_classes=1)
    best = uniform | {"epoch": 3, "all": 41.0, "per_class": [90.0, 80.0, 0.0, None]}
    heads = {
        "uniform": {"last": uniform, "best_on_test": best},
        "balanced": {"last": balanced, "best_on_test": balanced | {"epoch": 0}},
    }
    record.finish(whole_result(head="uniform", heads=heads, split=whole_split([9, 4, 3, 2], by_rank=by_rank)), {})
    before = record.config
    assert not record.let_stand("uniform", by_rank)
    assert record.let_stand("balanced", by_rank)
    result = record.result
    shown = ("head", "collapsed", "all", "balanced", "many", "medium", "few")
    assert [result[name] for name in shown] == ["balanced", True, 10.0, 10.0, 0.0, 0.0, 40.0]
    assert record.let_stand("uniform", {"many": [0, 1], "medium": [2], "few": [3]})
    result = record.result
    assert [result[name] for name in shown] == ["uniform", False, 40.0, 60.0, 75.0, 30.0, None]
    assert result["heads"]["balanced"]["last"]["few"] == 40.0
    best = result["heads"]["uniform"]["best_on_test"]
    assert [best[name] for name in ("all", "epoch", "many", "medium", "few")] == [41.0, 3, 85.0, 0.0, None]
    assert record.config == before | {"dataset": before["dataset"] | {"groups": [2, 1, 1]}}
    assert "shot groups of [2, 1, 1] classes stand for the run from now on" in (record.folder / "log.txt").read_text()


def test_a_number_that_is_not_finite_never_reaches_a_file(record):
    begin(record)
    with pytest.raises(ValueError, match="not JSON compliant"):
        record.finish({"all": float("nan")}, {})
    assert record.state == "interrupted"


# --- files and locks ---------------------------------------------------------------------------


def test_writers_of_one_file_do_not_meet(tmp_path):
    """As two sweeps that share a cell: each has a neighbour of its own to write to, and every reading is whole."""
    path = tmp_path / "sweeps.json"
    files.write_json(path, 0)
    with ThreadPoolExecutor(8) as pool:
        writing = [pool.submit(files.write_json, path, [number] * 100) for number in range(100)]
        seen = [files.read_json(path) for _ in range(100)]
        for one in writing:
            one.result()
    assert all(value == 0 or value == [value[0]] * 100 for value in seen)
    assert [one.name for one in tmp_path.iterdir()] == ["sweeps.json"]


def test_a_full_disk_leaves_what_stood_there(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    files.write_json(path, "before")

    def full(_descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: .*result\.json"):
        files.write_json(path, "after")
    assert [one.name for one in tmp_path.iterdir()] == ["result.json"]
    assert files.read_json(path) == "before"


def test_drafts_of_a_killed_process_go_when_the_run_begins_again(record):
    begin(record)
    for name in ("checkpoint.pt.0123.writing", "test_outputs.npz.4567.writing", "sweeps.json.89ab.writing"):
        (record.folder / name).touch()
    begin(record)
    assert [path.name for path in record.folder.glob("*.writing")] == ["sweeps.json.89ab.writing"]  # may be another's


def test_a_file_system_without_locks_is_lived_with(tmp_path, monkeypatch):
    held = files.try_lock(tmp_path / "lock")
    assert held is not None
    assert files.try_lock(tmp_path / "lock") is None
    without_locks(monkeypatch)
    with pytest.raises(files.NoLocksError):
        files.lock_file(tmp_path / "lock")
    with files.locked(tmp_path / "lock", seconds=0):
        pass
