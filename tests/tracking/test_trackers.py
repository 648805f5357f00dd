"""Trackers beside MLflow: what they wrote is read back, also after being killed, cut back, and started over."""

from __future__ import annotations

import csv
import json
import struct
import sys

import miniature
import pytest

from csa.config.faults import UserError
from csa.config.schema import TrackingConfig
from csa.request import preflight
from csa.tracking import tracker
from csa.tracking.lease import Lease
from csa.tracking.tracker import CsvTracker, TensorboardTracker, WandbTracker, WandbTracking
from csa.tracking.watched import WatchedRun, sync

SETTINGS = TrackingConfig(name="some", target=None)
FINAL = {"best_on_test/all", "best_on_test/balanced", "macro_f1", "g_mean", "ece", "training_seconds"}


def lived(root, kind, settings=SETTINGS, *, killed=True):
    """The folder of a run that was followed, cut off and cut back, followed by another process, and finished."""
    record = miniature.begin(root, epochs=3)
    with Lease(record.folder):
        first = WatchedRun(record.folder, kind(settings))
        first.push()
        # A kill frees the lock and closes nothing; but the process of wandb's own ends with the one that asks it.
        first._lock.close() if killed else first.release()
    record = miniature.begin(root, epochs=2)
    run = WatchedRun(record.folder, kind(settings))
    with Lease(record.folder):
        assert run.push()
        record.append_metrics(miniature.line(2))
        assert run.push()
    miniature.finish(record)
    assert run.push()
    run.release()
    return record.folder


def test_csv(tmp_path):
    folder = lived(tmp_path, CsvTracker)
    with (folder / "metrics.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["step"], row["stage"], row["epoch"]) for row in rows] == [
        ("0", "train", "0"), ("1", "train", "1"), ("2", "train", "2"),
    ]  # fmt: skip
    assert [float(row["loss"]) for row in rows] == [2.0, 1.9, 1.8]
    assert [float(row["balanced/all"]) for row in rows] == [float(row["all"]) for row in rows] == [60.0, 61.0, 62.0]
    assert [row["macro_f1"] for row in rows] == ["", "", "55.0"]
    assert "few" not in rows[0]  # no images, no accuracy
    assert [one.said for one in sync(tmp_path / "outputs", CsvTracker(SETTINGS))] == ["nothing was missing"]
    (folder / "metrics.csv").unlink()
    assert [one.said for one in sync(tmp_path / "outputs", CsvTracker(SETTINGS))] == ["wrote 3 epochs"]


def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.metadata import SESSION_START_INFO_TAG
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    folder = lived(tmp_path, TensorboardTracker)
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    read = {name: [(point.step, point.value) for point in events.Scalars(name)] for name in events.Tags()["scalars"]}
    assert read["loss"] == [(0, 2.0), (1, pytest.approx(1.9)), (2, pytest.approx(1.8))]
    assert read["balanced/all"] == read["all"] == [(0, 60.0), (1, 61.0), (2, 62.0)]
    assert {name: points for name, points in read.items() if len(points) == 1}.keys() == FINAL
    assert read["macro_f1"] == [(2, 55.0)]
    (content,) = [
        content
        for tag, content in events.summary_metadata.items() if tag == SESSION_START_INFO_TAG
    ]  # fmt: skip
    settings = HParamsPluginData.FromString(content.plugin_data.content).session_start_info.hparams
    assert (settings["protocol.lr"].number_value, settings["method.name"].string_value) == (0.0001, "csa")
    assert "secret" not in str(settings)


def test_wandb_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    settings = WandbTracking(name="wandb", target=None, project="tails", entity=None, mode="offline")
    folder = lived(tmp_path, WandbTracker, settings, killed=False)
    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    records = wandb_records(path)
    histories = [record.history for record in records if record.HasField("history")]
    lines = [{one.key or ".".join(one.nested_key): json.loads(one.value_json) for one in h.item} for h in histories]
    assert [line["loss"] for line in lines] == [2.0, 1.9, 1.8]
    assert [line["balanced/all"] for line in lines] == [60.0, 61.0, 62.0]
    (run, *_) = [record.run for record in records if record.HasField("run")]
    assert (run.project, run.display_name) == ("tails", "csa dots_lt ir10 tiny delta0.8 s0")
    config = {one.key or ".".join(one.nested_key): json.loads(one.value_json) for one in run.config.update}
    assert (config["protocol.lr"], config["method.name"]) == (0.0001, "csa")
    assert "secret" not in str(config)
    summary = {
        one.key or ".".join(one.nested_key): json.loads(one.value_json)
        for record in records if record.HasField("summary") for one in record.summary.update
    }  # fmt: skip
    assert summary["macro_f1"] == 55.0
    assert [record.exit.exit_code for record in records if record.HasField("exit")] == [0]


def wandb_records(path):
    """Of its file, a log as LevelDB has: behind a header blocks of 32 KiB, in which records have headers."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, at, part, found = path.read_bytes(), 7, b"", []
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        length, kind = struct.unpack_from("<HB", content, at + 4)
        part += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or its last part
            found.append(Record.FromString(part))
            part = b""
    return found


@pytest.mark.parametrize("name", ["mlflow", "tensorboard", "wandb"])
def test_a_missing_package_is_a_fault_that_names_the_extra(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError) as told:
        preflight([f"tracking={name}"])
    (fault,) = told.value.faults
    assert str(fault) == f"tracking={name}: is not installed; allowed: pip install 'csa[{name}]', or tracking=none"
    # A folder of the same name, as wandb makes one where it is started, is not the package.
    (tmp_path / "no_package").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert tracker.lacking(SETTINGS, "no_package")


def test_a_tracker_that_is_none_is_a_fault():
    with pytest.raises(UserError) as told:
        preflight(["tracking=csv", "tracking.target=csa.tracking.tracker.CsvTrackr"])
    (fault,) = told.value.faults
    assert (fault.key, fault.problem[:18]) == ("tracking.target", "cannot be imported")


def test_a_run_that_is_started_over_has_another_key(tmp_path):
    class Keys(CsvTracker):
        seen: list[str] = []  # noqa: RUF012

        def push(self, run):
            self.seen.append(run.key)
            return super().push(run)

    record = miniature.begin(tmp_path, epochs=1)
    for _ in range(2):
        WatchedRun(record.folder, Keys(SETTINGS)).push(anyway=True)
    record.start_over()
    record = miniature.begin(tmp_path, epochs=1)
    WatchedRun(record.folder, Keys(SETTINGS)).push()
    first, second, third = Keys.seen
    assert first == second != third
    assert len(third) == 32
