from __future__ import annotations

import json
import multiprocessing
import shutil
import sqlite3
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import miniature
import pytest
import torch

from csa.tracking.lease import Lease
from csa.tracking.mlflow import artifacts, mirror, store
from csa.tracking.mlflow.mirror import StartedOverError
from csa.tracking.mlflow.tracker import MlflowTracker
from csa.tracking.snapshot import Snapshot
from csa.tracking.watched import sync

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


class Mirror(mirror.Mirror):
    """One that reads the record itself."""

    def __init__(self, folder: Path, uri: str) -> None:
        super().__init__(folder, miniature.mlflow_at(uri))

    def push(self) -> str:
        return super().push(Snapshot(self.folder))


def the_run(client: MlflowClient) -> Run:
    (run,) = client.search_runs([client.get_experiment_by_name("csa").experiment_id])
    return client.get_run(run.info.run_id)


def history(client: MlflowClient, name: str) -> list[tuple[int, float]]:
    points = client.get_metric_history(the_run(client).info.run_id, name)
    return sorted((point.step, point.value) for point in points)


def state_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "mlflow.json").read_text())


def test_a_finished_run_is_there_with_every_value(tmp_path, uri, client):
    record = miniature.begin(tmp_path, epochs=3)
    miniature.finish(record)
    assert Mirror(record.folder, uri).push() == "sent 3 epochs and 8 files"

    run = the_run(client)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "csa dots_lt ir10 tiny delta0.8 s0"
    assert history(client, "loss") == [(0, 2.0), (1, 1.9), (2, 1.8)]
    assert history(client, "balanced/all") == history(client, "all") == [(0, 60.0), (1, 61.0), (2, 62.0)]
    assert history(client, "uniform/all") == [(0, 50.0), (1, 51.0), (2, 52.0)]
    assert history(client, "bank_fill") == [(0, 0.0), (1, 0.5), (2, 1.0)]
    assert history(client, "images_per_second") == [(0, 200.0), (1, 200.0), (2, 200.0)]
    assert history(client, "balanced") == history(client, "uniform/balanced") == [(0, 65.0), (1, 65.0), (2, 65.0)]
    assert history(client, "best_on_test/all") == [(2, 69.0)]
    assert history(client, "best_on_test/balanced") == [(2, 65.0)]
    assert (history(client, "macro_f1"), history(client, "g_mean")) == ([(2, 55.0)], [(2, 50.0)])
    assert history(client, "few") == []  # no images, no accuracy
    assert "per_class" not in "".join(run.data.metrics)
    assert run.data.params.items() >= {
        "dataset.name": "dots_lt", "dataset.source": "dots.Dots",
        "dataset.imbalance_ratio": "10.0", "dataset.mean": "null", "dataset.groups": "[1, 1, 1]",
        "method.name": "csa", "method.delta": "0.8", "method.primary_head": "balanced",
        "protocol.name": "tiny", "protocol.lr": "0.0001", "protocol.nesterov": "false",
        "delta": "0.8", "seed": "0", "variant": "",
    }.items()  # fmt: skip
    assert not [name for name in run.data.params if name.startswith("tracking")]
    tags = run.data.tags
    assert (tags["csa.fingerprint"], tags["csa.split_hash"]) == (miniature.FINGERPRINT, miniature.SPLIT_HASH)
    assert (tags["csa.status"], tags["csa.collapsed"], tags["csa.git_revision"]) == ("done", "false", "abc123")
    assert "| **balanced** | 70.00 | 60.00 | - | 62.00 | 65.00 | 69.00 (epoch 2) |" in tags["mlflow.note.content"]
    assert [entry.dataset.name for entry in run.inputs.dataset_inputs] == ["dots_lt"]


def test_the_times_are_those_of_the_training(tmp_path, uri, client):
    record = miniature.begin(tmp_path, epochs=3)
    miniature.finish(record)
    Mirror(record.folder, uri).push()
    run = the_run(client)
    points = sorted(client.get_metric_history(run.info.run_id, "loss"), key=lambda point: point.step)
    assert [after.timestamp - before.timestamp for before, after in pairwise(points)] == [750, 750]
    assert points[0].timestamp - run.info.start_time == 750
    assert run.info.end_time == round(1000 * (record.folder / "result.json").stat().st_mtime)


def test_artifacts(tmp_path, uri, client):
    from mlflow.artifacts import download_artifacts

    record = miniature.begin(tmp_path, epochs=3)
    miniature.finish(record)
    Mirror(record.folder, uri).push()
    run_id = the_run(client).info.run_id
    names = {file.path for file in client.list_artifacts(run_id)}
    files = {"config.yaml", "result.json", "metrics.jsonl", "test_outputs.npz", "checkpoint.pt"}
    assert names == {*files, "confusion", "per_class.json"}
    pictures = [file.path for file in client.list_artifacts(run_id, "confusion")]
    assert pictures == ["confusion/balanced.png", "confusion/uniform.png"]
    local = Path(download_artifacts(run_id=run_id, tracking_uri=uri, dst_path=str(tmp_path / "down")))
    assert "secret" not in (local / "config.yaml").read_text()
    table = json.loads((local / "per_class.json").read_text())
    assert table["columns"] == ["class", "training images", "group", "uniform", "balanced"]
    assert [table["data"][0], table["data"][-1]] == [["common", 20, "many", 60.0, 60.0], ["rare", 2, "few", 90.0, 90.0]]
    assert (local / "checkpoint.pt").read_bytes() == b"weights"


def test_pushing_twice_changes_nothing(tmp_path, uri, client):
    record = miniature.begin(tmp_path, epochs=3)
    miniature.finish(record)
    Mirror(record.folder, uri).push()
    before, state = database(uri), state_of(record.folder)
    again = Mirror(record.folder, uri)
    assert again.push() == again.push() == ""
    assert database(uri) == before
    assert state_of(record.folder) == state
    assert state["lines"] == 3
    assert state["status"] == "FINISHED"


def test_live_interrupted_cut_back_and_resumed(tmp_path, uri, client):
    record = miniature.begin(tmp_path, epochs=3)
    with Lease(record.folder):
        live = Mirror(record.folder, uri)
        live.push()
        assert the_run(client).info.status == "RUNNING"
        record.append_metrics(miniature.line(3))
        live.push()
    assert len(history(client, "loss")) == 4
    live.push()
    assert the_run(client).info.status == "KILLED"
    assert the_run(client).data.tags["csa.status"] == "interrupted"

    # The checkpoint knew two epochs; the run starts again with other threads and trains them once more.
    record.begin(miniature.CONFIG.replace("seed: 0", "seed: 0\nthreads: 2"), miniature.WHO, miniature.FINGERPRINT)
    record = miniature.begin(tmp_path, epochs=2)
    with Lease(record.folder):
        resumed = Mirror(record.folder, uri)
        for epoch in range(2, 6):
            record.append_metrics(miniature.line(epoch, seconds=0.7))
            resumed.push()
            assert the_run(client).info.status == "RUNNING"
    miniature.finish(record, epochs=6)
    resumed.push()
    assert the_run(client).info.status == "FINISHED"
    expected = [(epoch, miniature.line(epoch)["loss"]) for epoch in range(6)]
    assert history(client, "loss") == expected
    for name in ("all", "uniform/all", "lr", "images_per_second"):
        assert [step for step, _ in history(client, name)] == list(range(6))


def test_a_failure_is_told_and_forgotten_by_a_resume(tmp_path, uri, client):
    record = miniature.begin(tmp_path, epochs=1)
    record.fail({"reason": "the loss is nan at epoch 1"})
    Mirror(record.folder, uri).push()
    run = the_run(client)
    assert (run.info.status, run.data.tags["csa.status"]) == ("FAILED", "failed")
    assert "the loss is nan" in run.data.tags["mlflow.note.content"]
    record = miniature.begin(tmp_path, epochs=3)
    miniature.finish(record)
    Mirror(record.folder, uri).push()
    run = the_run(client)
    assert (run.info.status, run.data.tags["csa.status"]) == ("FINISHED", "done")
    assert "nan" not in run.data.tags["mlflow.note.content"]


def test_nothing_is_doubled_where_sending_was_not_noted(tmp_path, uri, client):
    record = miniature.begin(tmp_path, epochs=1)
    Mirror(record.folder, uri).push()
    noted = state_of(record.folder)
    record.write_metrics(miniature.line(epoch) for epoch in range(3))
    miniature.finish(record)
    Mirror(record.folder, uri).push()
    complete = database(uri)
    for forgotten in (noted, noted | {"run_id": None}):
        (record.folder / "mlflow.json").write_text(json.dumps(forgotten))
        Mirror(record.folder, uri).push()
        assert database(uri) == complete
        assert state_of(record.folder)["lines"] == 3


@pytest.mark.parametrize("call", range(1, 12))
def test_cut_off_at_any_call(tmp_path, uri, client, monkeypatch, call):
    """The connection breaks right after MLflow has done the n-th writing call."""
    from mlflow import MlflowClient

    calls = 0

    def breaking(name: str) -> Any:
        original = getattr(MlflowClient, name)

        def call_and_break(*arguments: Any, **named: Any) -> Any:
            nonlocal calls
            answer = original(*arguments, **named)
            calls += 1
            if calls == call:
                raise ConnectionError(name)
            return answer

        return call_and_break

    for name in ("create_run", "log_inputs", "log_batch", "set_terminated", "log_table", "log_figure", "log_artifact"):
        monkeypatch.setattr(MlflowClient, name, breaking(name))
    monkeypatch.setattr(mirror, "MOST_METRICS", 20)  # an epoch a call
    record = miniature.begin(tmp_path, epochs=3)
    miniature.finish(record)
    cut_off = Mirror(record.folder, uri)
    with pytest.raises(ConnectionError):
        cut_off.push()
    cut_off.push()
    run = the_run(client)
    assert run.info.status == "FINISHED"
    for name in run.data.metrics:
        of_the_end = name.startswith("best_on_test/") or name in ("macro_f1", "g_mean", "ece", "training_seconds")
        expected = [2] if of_the_end else [0, 1, 2]
        assert [step for step, _ in history(client, name)] == expected
    assert len(run.data.params) == 54
    assert len(list(client.list_artifacts(run.info.run_id))) == 7
    assert len(run.inputs.dataset_inputs) == 1


def test_another_store_gets_the_whole_run_and_the_first_is_found_again(tmp_path, uri, client, made_store):
    record = miniature.begin(tmp_path, epochs=3)
    miniature.finish(record)
    Mirror(record.folder, uri).push()
    first = the_run(client).info.run_id
    shutil.copy(made_store, tmp_path / "other.db")
    other = f"sqlite:///{tmp_path / 'other.db'}"
    Mirror(record.folder, other).push()
    Mirror(record.folder, uri).push()
    assert the_run(client).info.run_id == first
    assert state_of(record.folder)["run_id"] == first


def test_started_over_is_a_new_run_and_ends_the_old_one(tmp_path, uri, client):
    record = miniature.begin(tmp_path, epochs=2)
    with Lease(record.folder):
        old = Mirror(record.folder, uri)
        old.push()
        record.start_over()
        with pytest.raises(StartedOverError):
            old.push()
        Mirror(record.folder, uri).push()
    runs = client.search_runs([client.get_experiment_by_name("csa").experiment_id])
    assert sorted((run.info.status, run.data.tags["csa.status"]) for run in runs) == [
        ("KILLED", "interrupted"),
        ("RUNNING", "running"),
    ]


def test_a_run_deleted_in_mlflow_is_left_alone(tmp_path, uri, client):
    record = miniature.begin(tmp_path, epochs=1)
    Mirror(record.folder, uri).push()
    client.delete_run(the_run(client).info.run_id)
    record.append_metrics(miniature.line(1))
    assert "deleted" in Mirror(record.folder, uri).push()


def test_sweeps_are_tags_and_the_first_is_the_parent(tmp_path, uri, client, monkeypatch):
    record = miniature.begin(tmp_path, epochs=1)
    Mirror(record.folder, uri).push()
    child = the_run(client).info.run_id
    parent = client.create_run(client.get_experiment_by_name("csa").experiment_id).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", "somebody-elses")
    sweeps = [{"name": "table2", "parent_run_id": parent}, {"name": "figure5", "parent_run_id": "later"}]
    (record.folder / "sweeps.json").write_text(json.dumps(sweeps))
    Mirror(record.folder, uri).push()
    tags = client.get_run(child).data.tags
    assert (tags["mlflow.parentRunId"], tags["csa.sweep.table2"], tags["csa.sweep.figure5"]) == (parent, "true", "true")


def test_sync_sends_what_is_missing_once(tmp_path, uri, client):
    record = miniature.begin(tmp_path, epochs=3)
    miniature.finish(record)
    mlflow = MlflowTracker(miniature.mlflow_at(uri))
    assert [one.said for one in sync(tmp_path / "outputs", mlflow)] == ["sent 3 epochs and 8 files"]
    assert [one.said for one in sync(tmp_path / "outputs", mlflow)] == ["nothing was missing"]
    with Lease((record := miniature.begin(tmp_path / "elsewhere")).folder):
        (running,) = sync(tmp_path / "elsewhere" / "outputs", mlflow)
    assert (running.said, running.failed) == ("is being trained", False)
    assert not (record.folder / "mlflow.json").exists()


def test_eight_processes_make_one_fresh_store(tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "mlflow.db").touch()
    (tmp_path / "new" / "mlflow.db.new").write_bytes(b"half a schema, left by a process that was killed")
    uri = f"sqlite:///{tmp_path / 'new' / 'mlflow.db'}"
    context = multiprocessing.get_context("fork")  # MLflow is imported already
    processes = [context.Process(target=_begin_run, args=(uri, f"number {number}")) for number in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 8
    with sqlite3.connect(tmp_path / "new" / "mlflow.db") as connection:
        names = connection.execute("select name from runs order by name").fetchall()
        experiments = connection.execute("select artifact_location from experiments where name = 'csa'").fetchall()
    assert names == [(f"number {number}",) for number in range(8)]
    assert experiments == [((tmp_path / "new" / "mlruns" / "csa").as_uri(),)]
    assert not (tmp_path / "new" / "mlflow.db.new").exists()


def _begin_run(uri: str, name: str) -> None:
    client, experiment_id = store.connect(miniature.mlflow_at(uri))
    client.create_run(experiment_id, run_name=name)


LOAD = """
import sys, numpy, torch, mlflow
assert not any(name.startswith(("csa", "miniature")) for name in sys.modules)
mlflow.set_tracking_uri(sys.argv[1])
network = mlflow.pytorch.load_model(sys.argv[2])
images = torch.arange(5 * 48, dtype=torch.float32).reshape(5, 3, 4, 4) / 240
print(network(images).tolist())
print(mlflow.pyfunc.load_model(sys.argv[2]).predict(images.numpy()).tolist())
"""


@pytest.mark.slow
def test_the_model_runs_without_this_package(tmp_path, uri, client, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent)
    record = miniature.begin(tmp_path, epochs=3, config=miniature.CONFIG.replace("model: false", "model: true"))
    miniature.finish(record)
    monkeypatch.setattr(artifacts, "NETWORK", "miniature.brightness")
    Mirror(record.folder, uri).push()
    assert len(history(client, "loss")) == 3  # MLflow copies the model's metrics from the run's
    (model,) = client.search_logged_models([the_run(client).info.experiment_id])
    assert {metric.key for metric in model.metrics} >= {"all", "loss"}
    state = state_of(record.folder)
    (record.folder / "mlflow.json").write_text(json.dumps(state | {"artifacts": state["artifacts"][:-1]}))
    Mirror(record.folder, uri).push()
    (still,) = client.search_logged_models([the_run(client).info.experiment_id])
    assert (still.model_id, still.source_run_id) == (model.model_id, the_run(client).info.run_id)

    command = [sys.executable, "-c", LOAD, uri, f"models:/{model.model_id}"]
    said = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True).stdout.splitlines()
    images = torch.arange(5 * 48, dtype=torch.float32).reshape(5, 3, 4, 4) / 240
    expected = miniature.Brightness()(images).tolist()
    assert json.loads(said[-2]) == expected
    assert json.loads(said[-1]) == expected


def database(uri: str) -> dict[str, list[Any]]:
    """Everything the store holds."""
    with sqlite3.connect(uri.removeprefix("sqlite:///")) as connection:
        tables = [name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")]
        return {table: sorted(map(repr, connection.execute(f'select * from "{table}"'))) for table in tables}
