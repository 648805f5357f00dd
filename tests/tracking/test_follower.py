"""The follower as a process: whatever MLflow does, the training side neither waits nor fails."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Timer
from types import SimpleNamespace

import miniature

from csa.tracking import sweeps
from csa.tracking.follower import Follower, follow
from csa.tracking.lease import Lease
from csa.tracking.mirror import Mirror

PATIENCE = 40.0
"""Seconds on the busiest machine; the follower's own process gives up after sixty."""


def wait_for(condition, seconds=180.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def status_in(folder: Path) -> str | None:
    path = folder / "mlflow.json"
    return json.loads(path.read_text())["status"] if path.exists() else None


def test_nothing_starts_before_it_is_under_way_and_closing_forgets_nothing(tmp_path, uri, client):
    """A run that fails before its first step is in MLflow as well."""
    follower = Follower(uri, "csa", tmp_path / "mlflow.log")
    record = miniature.begin(tmp_path, epochs=0)
    follower.expect(record.folder)
    assert follower._process is None
    record.fail({"reason": "no image could be read"})
    assert follower.close(180) is None, (tmp_path / "mlflow.log").read_text()
    assert status_in(record.folder) == "FAILED"
    (run,) = client.search_runs([client.get_experiment_by_name("csa").experiment_id])
    assert run.info.status == "FAILED"


def test_two_runs_live_to_their_end(tmp_path, uri, client):
    """One follower for several folders, one of which does not exist yet; then close() has nothing to say."""
    follower = Follower(uri, "csa", tmp_path / "mlflow.log")
    later = tmp_path / "second" / "outputs" / "dots_lt" / "csa" / f"ir10-tiny-delta0.8-s0-{miniature.FINGERPRINT}"
    record = miniature.begin(tmp_path, epochs=1)
    follower.follow(record.folder)
    follower.follow(later)
    with Lease(record.folder):
        wait_for(lambda: status_in(record.folder) == "RUNNING")
        for epoch in (1, 2):
            record.append_metrics(miniature.line(epoch))
        miniature.finish(record)
    second = miniature.begin(tmp_path / "second", epochs=2)
    assert second.folder == later
    said = follower.close(180)
    assert said is None, (tmp_path / "mlflow.log").read_text()
    runs = client.search_runs([client.get_experiment_by_name("csa").experiment_id])
    by_status = {run.info.status: run for run in runs}
    assert by_status.keys() == {"FINISHED", "KILLED"}  # the second was neither done nor held by a lease
    for status, epochs in (("FINISHED", 3), ("KILLED", 2)):
        points = client.get_metric_history(by_status[status].info.run_id, "loss")
        assert sorted(point.step for point in points) == list(range(epochs))


def test_a_run_that_ends_while_it_is_pushed_is_pushed_to_its_end(tmp_path, uri, client, monkeypatch):
    """A push may wait long for the store, and sends what there was when it began."""
    record = miniature.begin(tmp_path, epochs=1)
    settings = {"uri": uri, "experiment": "csa", "model": None, "sweep": None}
    orders = SimpleNamespace(messages=[{"folder": str(record.folder)}], settings=settings, ended=Event())
    lease = Lease(record.folder).__enter__()
    push = Mirror.push

    def slow_push(mirror):
        sent = push(mirror)
        if record.state == "running":
            miniature.finish(record)
            lease.__exit__()
            Timer(0.5, orders.ended.set).start()
        return sent

    monkeypatch.setattr(Mirror, "push", slow_push)
    assert follow(orders) == 0
    (run,) = client.search_runs([client.get_experiment_by_name("csa").experiment_id])
    assert (run.info.status, run.data.tags["csa.status"]) == ("FINISHED", "done")


KILLED_TRAINING = """
import os, signal, sys, time
from pathlib import Path
sys.path[:0] = {here!r}
import miniature
from csa.tracking.follower import Follower
from csa.tracking.lease import Lease
record = miniature.begin(Path({root!r}), epochs=2)
lease = Lease(record.folder).__enter__()
follower = Follower({uri!r}, "csa", Path({root!r}) / "mlflow.log")
follower.follow(record.folder)
state = record.folder / "mlflow.json"
while not state.exists() or "RUNNING" not in state.read_text():
    time.sleep(0.05)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_training_is_not_left_running(tmp_path, uri, client):
    script = KILLED_TRAINING.format(
        here=[str(folder) for folder in Path(__file__).parents[:2]], root=str(tmp_path), uri=uri
    )
    assert subprocess.run([sys.executable, "-c", script], check=False, timeout=300).returncode == -9
    wait_for(lambda: status_in(next((tmp_path / "outputs").glob("*/*/*"))) == "KILLED")
    (run,) = client.search_runs([client.get_experiment_by_name("csa").experiment_id])
    assert (run.info.status, run.data.tags["csa.status"]) == ("KILLED", "interrupted")


def test_a_locked_store_delays_nothing_and_is_written_later(tmp_path, uri, client):
    connection = sqlite3.connect(uri.removeprefix("sqlite:///"), isolation_level=None)
    connection.execute("begin exclusive")
    record = miniature.begin(tmp_path, epochs=3)
    follower = Follower(uri, "csa", tmp_path / "mlflow.log")
    follower.follow(record.folder)  # it comes back while the lock stands
    miniature.finish(record)
    wait_for((record.folder / "mlflow.json").exists)  # it is at the lock now
    started = time.monotonic()
    said = follower.close(1.0)
    assert time.monotonic() - started < PATIENCE
    assert said is not None
    assert "mode=sync" in said
    connection.execute("rollback")
    wait_for(lambda: status_in(record.folder) == "FINISHED")
    (run,) = client.search_runs([client.get_experiment_by_name("csa").experiment_id])
    assert len(client.get_metric_history(run.info.run_id, "loss")) == 3
    assert follower._process is not None
    follower._process.wait(180)


def test_a_server_that_is_not_there_is_not_waited_for(tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    record = miniature.begin(tmp_path, epochs=3)
    follower = Follower(f"http://127.0.0.1:{port}", "csa", tmp_path / "mlflow.log")
    follower.follow(record.folder)
    miniature.finish(record)
    wait_for(
        lambda: (
            (record.folder / "mlflow.json").exists() and 'trouble": "' in (record.folder / "mlflow.json").read_text()
        )
    )
    started = time.monotonic()
    said = follower.close()
    assert time.monotonic() - started < PATIENCE
    assert said is not None
    assert "mode=sync" in said
    assert follower._process is not None
    os.kill(follower._process.pid, 9)  # it would give up by itself a minute later
    follower._process.wait()


def test_a_follower_that_died_is_only_mentioned(tmp_path, uri):
    record = miniature.begin(tmp_path, epochs=1)
    follower = Follower(uri, "csa", tmp_path / "mlflow.log")
    follower.follow(record.folder)
    assert follower._process is not None
    os.kill(follower._process.pid, 9)
    follower._process.wait()
    follower.follow(tmp_path / "another")
    said = follower.close()
    assert said is not None
    assert "mode=sync" in said


def test_a_folder_that_takes_no_log_is_only_mentioned(tmp_path, uri):
    (tmp_path / "file").touch()
    follower = Follower(uri, "csa", tmp_path / "file" / "mlflow.log")
    follower.follow(tmp_path / "run")
    said = follower.close()
    assert said is not None
    assert "not written" in said
    assert "mode=sync" in said


def test_importing_it_is_cheap():
    """The training process starts a follower; MLflow itself is the follower's."""
    code = "import sys, csa.tracking.sync; print({'mlflow', 'torch', 'matplotlib', 'omegaconf'} & set(sys.modules))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "set()"


# --- a sweep's ----------------------------------------------------------------------------------


def sweep_orders(uri: str, *messages: dict) -> SimpleNamespace:
    settings = {"uri": uri, "experiment": "csa", "model": None, "sweep": ["lr-0123ab", "dots: lr"]}
    orders = SimpleNamespace(messages=list(messages), settings=settings, ended=Event())
    orders.ended.set()
    return orders


def test_a_sweep_is_the_parent_of_its_runs_however_short_it_is(tmp_path, uri, client):
    record = miniature.begin(tmp_path, epochs=1)
    miniature.finish(record)
    sweeps.note(record.folder, "another")
    sweeps.note(record.folder, "lr-0123ab")
    means = {"csa 0.3": {"all": 51.234, "seeds": 1.0}}
    end = {"end": {"status": "FINISHED", "counts": {"done": 1, "failed": 0}, "means": means}}
    assert follow(sweep_orders(uri, {"folder": str(record.folder)}, end)) == 0
    runs = client.search_runs([client.get_experiment_by_name("csa").experiment_id])
    by_name = {run.info.run_name: run for run in runs}
    parent = by_name.pop("dots: lr")
    (run,) = by_name.values()
    assert (parent.info.status, run.info.status) == ("FINISHED", "FINISHED")
    assert (parent.data.tags["csa.runs.done"], parent.data.tags["csa.runs.failed"]) == ("1", "0")
    assert parent.data.metrics == {"csa 0.3/all": 51.23, "csa 0.3/seeds": 1.0}
    assert "| csa 0.3 | 51.23 | 1.0 |" in parent.data.tags["mlflow.note.content"]
    assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert run.data.tags["csa.sweep.another"] == run.data.tags["csa.sweep.lr-0123ab"] == "true"
    # Started again and killed: the same parent, and nothing more to say of the run.
    assert follow(sweep_orders(uri)) == 0
    assert client.get_run(parent.info.run_id).info.status == "KILLED"
    assert len(client.search_runs([parent.info.experiment_id])) == 2


def test_two_sweeps_note_the_same_run(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        noted = pool.map(lambda number: sweeps.note(tmp_path, f"sweep {number % 4}", f"run {number % 4}"), range(32))
    assert sum(noted) == 4
    expected = [{"name": f"sweep {number}", "parent_run_id": f"run {number}"} for number in range(4)]
    assert sorted(sweeps.sweeps_of(tmp_path), key=lambda one: one["name"]) == expected
    (tmp_path / sweeps.NAME).write_text("[{}")
    assert sweeps.sweeps_of(tmp_path) == []
    assert sweeps.note(tmp_path, "sweep 1")
