"""The watcher as a process: whatever a tracker does, the training side neither waits nor fails."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from threading import Timer

import miniature

from csa.config.schema import TrackingConfig
from csa.tracking import sweeps
from csa.tracking.lease import Lease, this_process
from csa.tracking.mlflow.mirror import Mirror
from csa.tracking.mlflow.tracker import MlflowTracker
from csa.tracking.watched import WatchedSweep, noted, sync
from csa.tracking.watcher import OPEN_NAME, Watcher, Watching

PATIENCE = 40.0
"""Seconds on the busiest machine; the watcher's own process gives up after sixty."""


def wait_for(condition, seconds=180.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def status_in(folder: Path) -> str | None:
    path = folder / "mlflow.json"
    return json.loads(path.read_text())["status"] if path.exists() else None


def watcher_of(folder: Path, uri: str) -> Watcher:
    watcher = Watcher(miniature.mlflow_at(uri), folder)
    watcher.expect()
    return watcher


def the_run(client):
    (run,) = client.search_runs([client.get_experiment_by_name("csa").experiment_id])
    return run


def test_nothing_starts_before_it_is_under_way_and_closing_forgets_nothing(tmp_path, uri, client):
    """A run that fails before its first step is in MLflow as well."""
    record = miniature.begin(tmp_path, epochs=0)
    watcher = watcher_of(record.folder, uri)
    assert watcher._process is None
    record.fail({"reason": "no image could be read"})
    assert watcher.close(180) is None, (record.folder / "tracking.log").read_text()
    assert status_in(record.folder) == "FAILED"
    assert the_run(client).info.status == "FAILED"


def test_a_run_lives_to_its_end(tmp_path, uri, client):
    """Then close() has nothing to say, and nothing that only the two processes need is left."""
    record = miniature.begin(tmp_path, epochs=1)
    watcher = watcher_of(record.folder, uri)
    with Lease(record.folder):
        watcher.start()
        wait_for(lambda: status_in(record.folder) == "RUNNING")
        for epoch in (1, 2):
            record.append_metrics(miniature.line(epoch))
        miniature.finish(record)
    said = watcher.close(180)
    assert said is None, (record.folder / "tracking.log").read_text()
    assert not (record.folder / OPEN_NAME).exists()
    assert the_run(client).info.status == "FINISHED"
    assert sorted(point.step for point in client.get_metric_history(the_run(client).info.run_id, "loss")) == [0, 1, 2]
    assert noted(record.folder)["pushed"][0] == "done"


def test_a_run_that_ends_while_it_is_pushed_is_pushed_to_its_end(tmp_path, uri, client, monkeypatch):
    """A push may wait long for the store, and sends what there was when it began."""
    record = miniature.begin(tmp_path, epochs=1)
    (record.folder / OPEN_NAME).touch()
    lease = Lease(record.folder).__enter__()
    push = Mirror.push

    def slow_push(mirror, run):
        sent = push(mirror, run)
        if record.state == "running":
            miniature.finish(record)
            lease.__exit__()
            Timer(0.5, (record.folder / OPEN_NAME).unlink).start()
        return sent

    monkeypatch.setattr(Mirror, "push", slow_push)
    assert Watching(record.folder, MlflowTracker(miniature.mlflow_at(uri)), os.getppid()).watch() == 0
    run = the_run(client)
    assert (run.info.status, run.data.tags["csa.status"]) == ("FINISHED", "done")


KILLED_TRAINING = """
import os, signal, sys, time
from pathlib import Path
sys.path[:0] = {here!r}
import miniature
from csa.tracking.watcher import Watcher
from csa.tracking.lease import Lease
record = miniature.begin(Path({root!r}), epochs=2)
lease = Lease(record.folder).__enter__()
watcher = Watcher(miniature.mlflow_at({uri!r}), record.folder)
watcher.expect()
watcher.start()
state = record.folder / "mlflow.json"
while not state.exists() or "RUNNING" not in state.read_text():
    time.sleep(0.05)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_training_is_not_left_running(tmp_path, uri, client):
    script = KILLED_TRAINING.format(
        here=[str(folder) for folder in Path(__file__).parents[:2]], root=str(tmp_path), uri=uri
    )
    (tmp_path / "killed_training.py").write_text(script)
    done = subprocess.run([sys.executable, "-m", "killed_training"], cwd=tmp_path, check=False, timeout=300)
    assert done.returncode == -9
    wait_for(lambda: status_in(next((tmp_path / "outputs").glob("*/*/*"))) == "KILLED")
    run = the_run(client)
    assert (run.info.status, run.data.tags["csa.status"]) == ("KILLED", "interrupted")


def test_a_locked_store_delays_nothing_and_is_written_later(tmp_path, uri, client):
    connection = sqlite3.connect(uri.removeprefix("sqlite:///"), isolation_level=None)
    connection.execute("begin exclusive")
    record = miniature.begin(tmp_path, epochs=3)
    watcher = watcher_of(record.folder, uri)
    watcher.start()  # it comes back while the lock stands
    miniature.finish(record)
    wait_for((record.folder / "mlflow.json").exists)  # it is at the lock now
    started = time.monotonic()
    said = watcher.close(1.0)
    assert time.monotonic() - started < PATIENCE
    assert said is not None
    assert "mode=sync" in said
    connection.execute("rollback")
    wait_for(lambda: status_in(record.folder) == "FINISHED")
    assert len(client.get_metric_history(the_run(client).info.run_id, "loss")) == 3
    watcher._process.wait(180)


def test_a_server_that_is_not_there_is_not_waited_for(tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    record = miniature.begin(tmp_path, epochs=3)
    watcher = watcher_of(record.folder, f"http://me:secret@127.0.0.1:{port}")
    watcher.start()
    miniature.finish(record)
    wait_for(lambda: noted(record.folder).get("trouble"))
    started = time.monotonic()
    said = watcher.close()
    assert time.monotonic() - started < PATIENCE
    assert "cannot be written" in said
    assert "mode=sync" in said
    told = [path.read_text() for path in (record.folder / name for name in ("tracking.json", "tracking.log"))]
    assert "secret" not in "".join([said, *told])
    os.kill(watcher._process.pid, 9)  # it would give up by itself a minute later
    watcher._process.wait()


def test_a_watcher_that_died_is_only_mentioned(tmp_path, uri):
    record = miniature.begin(tmp_path, epochs=1)
    watcher = watcher_of(record.folder, uri)
    watcher.start()
    os.kill(watcher._process.pid, 9)
    watcher._process.wait()
    watcher.start()
    assert "mode=sync" in watcher.close()


def test_a_folder_that_takes_nothing_is_only_mentioned(tmp_path, uri):
    (tmp_path / "file").touch()
    said = watcher_of(tmp_path / "file" / "run", uri).close()
    assert "not written" in said
    assert "mode=sync" in said


def test_where_nothing_is_tracked_nothing_starts(tmp_path):
    watcher = Watcher(TrackingConfig(name="none", target=None), tmp_path)
    watcher.expect()
    assert watcher.close() is None
    assert list(tmp_path.iterdir()) == []


def test_importing_it_is_cheap():
    """The training process starts a watcher; MLflow itself is the watcher's."""
    code = "import sys, csa.tracking.watcher, csa.tracking.mlflow.tracker; print("
    code += "{'mlflow', 'torch', 'matplotlib', 'omegaconf'} & set(sys.modules))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "set()"


# --- a sweep's ----------------------------------------------------------------------------------

MEANS = {"ce": {"all": 50.123456, "few": 10.0, "seeds": 3.0}, "csa <0.3>": {"all": 60.0, "seeds": 1.0}}


def sweep_in(root: Path, *runs: Path) -> sweeps.SweepRecord:
    sweep = sweeps.SweepRecord(root / "outputs", "lr-0123ab", "dots: lr")
    sweep.begin(runs)
    return sweep


def watched(sweep: sweeps.SweepRecord, uri: str, starter: int | None = None) -> int:
    """As by a watcher whose starter has closed it, or was killed."""
    starter = os.getppid() if starter is None else starter
    return Watching(sweep.folder, MlflowTracker(miniature.mlflow_at(uri)), starter).watch()


def parent_and_others(client):
    runs = client.search_runs([client.get_experiment_by_name("csa").experiment_id])
    (parent,) = [run for run in runs if "csa.sweep.parent" in run.data.tags]
    return parent, [run for run in runs if run is not parent]


def test_a_sweep_is_the_parent_of_its_runs_however_short_it_is(tmp_path, uri, client):
    record = miniature.begin(tmp_path, epochs=1)
    miniature.finish(record)
    sweeps.note(record.folder, "another")
    sweeps.note(record.folder, "lr-0123ab")
    sweep = sweep_in(tmp_path, record.folder, record.folder.with_name("not-begun"))
    sweep.end("done", {"done": 1, "failed": 0}, MEANS)
    assert watched(sweep, uri) == 0
    parent, (run,) = parent_and_others(client)
    assert (parent.info.run_name, parent.info.status, run.info.status) == ("dots: lr", "FINISHED", "FINISHED")
    assert (parent.data.tags["csa.runs.done"], parent.data.tags["csa.runs.failed"]) == ("1", "0")
    assert parent.data.metrics == {
        "ce/all": 50.12, "ce/few": 10.0, "ce/seeds": 3.0, "csa _0.3_/all": 60.0, "csa _0.3_/seeds": 1.0,
    }  # fmt: skip
    assert "| ce | 50.12 | 10.0 | 3.0 |" in parent.data.tags["mlflow.note.content"]
    run_id = parent.info.run_id
    table = json.loads((tmp_path / client.download_artifacts(run_id, "means.json", str(tmp_path))).read_text())
    assert table == {
        "columns": ["cell", "all", "few", "seeds"],
        "data": [["ce", 50.12, 10.0, 3.0], ["csa <0.3>", 60.0, None, 1.0]],
    }
    assert run.data.tags["mlflow.parentRunId"] == run_id
    assert run.data.tags["csa.sweep.another"] == run.data.tags["csa.sweep.lr-0123ab"] == "true"

    # Sent once more, there is nothing to send; started again and killed: the same parent, and nothing of the run.
    list(sync(tmp_path / "outputs", MlflowTracker(miniature.mlflow_at(uri))))
    assert len(client.get_metric_history(run_id, "ce/all")) == 1
    again = sweep_in(tmp_path)
    assert sweeps.read(again.folder).runs == sweeps.read(sweep.folder).runs
    assert watched(again, uri, starter=os.getpid()) == 0
    assert (parent_and_others(client)[0].info.run_id, len(parent_and_others(client)[1])) == (run_id, 1)
    assert client.get_run(run_id).info.status == "KILLED"


def test_of_two_starts_the_later_says_how_the_sweep_ended(tmp_path, uri, client):
    first, elsewhere = sweep_in(tmp_path / "here"), sweep_in(tmp_path / "there")
    again = sweep_in(tmp_path / "here")
    mlflow = MlflowTracker(miniature.mlflow_at(uri))
    assert WatchedSweep(again.folder, mlflow).push()
    first.end("done", {"done": 4}, {"ce": {"all": 1.0}})
    elsewhere.end("failed", {"failed": 4}, {})
    assert WatchedSweep(first.folder, mlflow).push()
    assert WatchedSweep(elsewhere.folder, mlflow).push()
    parent, _ = parent_and_others(client)
    assert (parent.info.status, parent.data.metrics) == ("RUNNING", {})
    again.end("done", {"done": 4}, {"ce": {"all": 2.0}})
    assert WatchedSweep(again.folder, mlflow).push()
    assert client.get_run(parent.info.run_id).data.metrics == {"ce/all": 2.0}


def test_what_mlflow_missed_of_a_sweep_is_sent_later(tmp_path, uri, client):
    """By whoever was never there to see it: no watcher, and a process that was killed."""
    record = miniature.begin(tmp_path, epochs=1)
    miniature.finish(record)
    sweep = sweep_in(tmp_path, record.folder)
    mlflow = MlflowTracker(miniature.mlflow_at(uri))
    assert [str(one) for one in sync(tmp_path / "outputs", mlflow)] == [f"{record.folder}: sent 1 epochs and 8 files"]
    assert "mlflow.parentRunId" not in the_run(client).data.tags  # this process lives, and may be at it
    ended = subprocess.Popen(["true"])
    ended.wait()
    gone = replace(this_process(), pid=ended.pid)
    path = sweep.folder / sweeps.NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | {"process": asdict(gone)}))
    list(sync(tmp_path / "outputs", mlflow))
    parent, (run,) = parent_and_others(client)
    assert (parent.info.status, run.data.tags["mlflow.parentRunId"]) == ("KILLED", parent.info.run_id)


def test_two_sweeps_note_the_same_run(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        noted = pool.map(lambda number: sweeps.note(tmp_path, f"sweep {number % 4}", f"run {number % 4}"), range(32))
    assert sum(noted) == 4
    expected = [{"name": f"sweep {number}", "parent_run_id": f"run {number}"} for number in range(4)]
    assert sorted(sweeps.sweeps_of(tmp_path), key=lambda one: one["name"]) == expected
    (tmp_path / sweeps.OF_A_RUN).write_text("[{}")
    assert sweeps.sweeps_of(tmp_path) == []
    assert sweeps.note(tmp_path, "sweep 1")
