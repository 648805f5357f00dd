"""Real processes ended by SIGKILL and started again: the same run in the end, in its files and in MLflow.

A second Ctrl-C leaves what SIGKILL leaves.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from same_run import assert_same, contents
from tiny_words import TINY

from csa.tracking.record import Record
from csa.training import checkpoint

# In stage one, at a step; within the writing of a checkpoint; in stage two (epochs 0 and 1 are stage one's).
KILLS = ("step 3", "write 6", "step 13")

# A module that runs csa with the words after the place at which the process kills itself: after the n-th step that this
# run takes, counted by its checkpoints, or in the n-th checkpoint that this process writes, half of it written.
KILLED = """
import os, signal, sys
from csa.entry import hydra_main
from csa.run import run
from csa.training import checkpoint, loop
what, count = sys.argv.pop(1).split()
taken = 0
def die():
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGINT if what == "ctrl-c" else signal.SIGKILL)
def counted(function, before):
    def call(*given):
        global taken
        taken += 1
        if taken == int(count) and before:
            before(*given)
        done = function(*given)
        if taken == int(count):
            die()
        return done
    return call
def half(path, state):
    path.with_name(path.name + ".half.writing").write_bytes(b"half")
    die()
if what in ("step", "ctrl-c"):
    loop.Training._step = counted(loop.Training._step, None)
else:
    checkpoint.save = counted(checkpoint.save, half)
hydra_main(run)
"""


def csa(folder: Path, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "killing.py").write_text(KILLED)
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)


@pytest.fixture
def words(uri) -> tuple[str, ...]:
    tiny = [word for word in TINY if word != "tracking=none"]
    more = ("backbone=lenet", "runtime.checkpoint_seconds=0", "tracking.model=false", f"tracking.uri={uri}")
    return (*tiny, "method=crt", *more)


def only_record(root: Path) -> Record:
    (folder,) = (path.parent for path in root.glob("*/*/*/identity.json"))
    return Record(folder)


def test_killed_and_continued_is_the_same_run(tmp_path, words):
    calm = csa(tmp_path, "csa.run", *words, f"output_root={tmp_path / 'calm'}", "tracking=none")
    assert calm.returncode == 0, calm.stdout + calm.stderr
    root = tmp_path / "killed"
    found = []
    for kill in KILLS:
        ended = csa(tmp_path, "killing", kill, *words, f"output_root={root}")
        assert ended.returncode == -signal.SIGKILL, ended.stdout + ended.stderr
        record = only_record(root)
        assert record.state == "interrupted"
        state, damaged = checkpoint.load_newest(record.checkpoint)
        assert damaged == []
        found.append((tuple(state["at"].values()), record.checkpoint.with_name("checkpoint.pt.half.writing").exists()))
    stages = [at[0] for at, _ in found]
    assert stages[0] == 0
    assert stages[-1] == 1
    assert [inside for _, inside in found] == [False, True, False]
    last = csa(tmp_path, "csa.run", *words, f"output_root={root}")
    assert last.returncode == 0, last.stdout + last.stderr
    record = only_record(root)
    assert_same(contents(record), contents(only_record(tmp_path / "calm")))
    assert "continued at stage 1" in (record.folder / "log.txt").read_text()
    # Where a killed start's own sending is still under way, sync leaves the run to it.
    for _ in range(30):
        synced = csa(tmp_path, "csa.records", "mode=sync", f"output_root={root}", *words[-1:])
        assert synced.returncode == 0, synced.stdout
        if "another process is sending it" not in synced.stdout:
            break
    assert history_in_mlflow(tmp_path) == ("FINISHED", list(range(len(record.metrics()))))


def test_a_second_ctrl_c_stops_at_once_and_loses_nothing(tmp_path, words):
    ended = csa(tmp_path, "killing", "ctrl-c 3", *words, f"output_root={tmp_path}", "tracking=none")
    assert ended.returncode == 130, ended.stdout + ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr
    record = only_record(tmp_path)
    assert record.state == "interrupted"
    state, _ = checkpoint.load_newest(record.checkpoint)
    # The first would have saved after step 3; the checkpoint that is there is the one after step 2.
    assert tuple(state["at"].values()) == (0, 0, 2)


def history_in_mlflow(folder: Path) -> tuple[str, list[int]]:
    """Status of the one run in the store, and the epochs of its loss."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("csa").experiment_id])
    return run.info.status, sorted(point.step for point in client.get_metric_history(run.info.run_id, "loss"))
