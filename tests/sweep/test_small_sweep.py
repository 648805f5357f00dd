"""Real sweeps of seconds: skipped, killed, interrupted, failed, continued; and MLflow beside them."""

from __future__ import annotations

import json
import os
import shutil
import signal

import pytest
from mlflow import MlflowClient
from started import LENET, ended, epochs, folder_of, start, training, wait_for

from csa.tracking.mlflow.mirror import STATUS
from csa.tracking.record import Record

EPOCHS = 80
LEARNS, KILLED, FAILS = "lr: 0.011\n", "lr: 0.012\n", "lr: 1000000000000.0\n"
OPTION = "name: small_of_mine\ntarget: csa.models.lenet.LeNet\nstem: null\nmin_size: 12\n"
"""In a folder of one's own: it is swept as one of conf/ is."""
WORDS = ("--config-dir", "mine", "-m", *LENET, "backbone=small_of_mine", f"protocol.epochs={EPOCHS}", "sweep.slots=2")
SWEEP = (*WORDS, "protocol.lr=0.011,0.012,1e12", "sweep.name=killed")


def results(root) -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in root.glob("outputs/*/*/*/result.json")}


# --- one sweep, killed, interrupted, failing ------------------------------------------------


class Sweep:
    """Four starts of one sweep; what was seen of each."""

    def __init__(self, root) -> None:
        self.root = root
        (root / "mine" / "backbone").mkdir(parents=True)
        (root / "mine" / "backbone" / "small_of_mine.yaml").write_text(OPTION)
        self.kill_parent()
        self.kill_child()
        self.ctrl_c()
        self.done_before = results(root)
        self.last_status, self.last_told = ended(start(root, *SWEEP, "sweep.retry_failed=true"))
        self.last_mlflow = self.settled(killed="FAILED")

    def kill_parent(self) -> None:
        sweep = start(self.root, *SWEEP)
        wait_for(lambda: training(self.run(LEARNS)) and training(self.run(KILLED)), sweep)
        pids = [training(self.run(text)) for text in (LEARNS, KILLED)]
        sweep.kill()
        ended(sweep)
        wait_for(lambda: not any(pid is not None and alive(pid) for pid in pids))
        self.epochs_at_kill = {text: epochs(self.run(text)) for text in (LEARNS, KILLED)}

    def kill_child(self) -> None:
        sweep = start(self.root, *SWEEP)
        already = len(self.epochs_at_kill[KILLED])
        wait_for(lambda: training(self.run(KILLED), already), sweep)
        os.kill(training(self.run(KILLED), already), signal.SIGKILL)
        self.child_status, self.child_told = ended(sweep)
        self.child_mlflow = self.settled(killed="FAILED")

    def ctrl_c(self) -> None:
        sweep = start(self.root, *SWEEP)
        already = len(epochs(self.run(KILLED)))
        wait_for(lambda: training(self.run(KILLED), already), sweep)
        sweep.send_signal(signal.SIGINT)
        self.stopped_status, self.stopped_told = ended(sweep)
        self.stopped_mlflow = self.settled(killed="KILLED")

    def run(self, text: str):
        return folder_of(self.root, text)

    def settled(self, **parents: str) -> dict[str, object]:
        """MLflow's runs by their names, once they and the sweeps' own, of these statuses, are as they must become."""
        client = MlflowClient(f"sqlite:///{self.root / 'mlflow.db'}")
        records = [Record(path.parent) for path in self.root.glob("outputs/*/*/*/identity.json")]
        expected = parents | {record.folder.name.rpartition("-")[2]: STATUS[record.state] for record in records}

        def runs():
            experiment = client.get_experiment_by_name("csa")
            return [] if experiment is None else client.search_runs([experiment.experiment_id])

        def statuses():
            return {run.data.tags.get("csa.fingerprint", run.info.run_name): run.info.status for run in runs()}

        wait_for(lambda: statuses() == expected, pause=1.0)  # asking takes its time
        return {run.data.params.get("protocol.lr", run.info.run_name): run for run in runs()}


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture(scope="module")
def sweep(tmp_path_factory, made_store):
    root = tmp_path_factory.mktemp("sweep")
    shutil.copy(made_store, root / "mlflow.db")
    return Sweep(root)


def test_a_killed_sweep_leaves_runs_that_continue(sweep):
    assert all(0 < len(seen) < EPOCHS for seen in sweep.epochs_at_kill.values())
    for text in (LEARNS, KILLED):
        assert epochs(sweep.run(text)) == list(range(EPOCHS))
        assert "continued at stage" in (sweep.run(text) / "log.txt").read_text()


def test_a_killed_child_and_a_failure_are_theirs_alone(sweep):
    assert sweep.child_status == 1
    told = sweep.child_told
    assert "failed: protocol.lr=0.012" in told
    assert "killed by SIGKILL; the next start continues it" in told
    assert "failed: protocol.lr=1000000000000.0" in told
    assert "the loss is nan at stage" in told
    assert str(sweep.run(FAILS).relative_to(sweep.root)) in told
    assert "\n3 runs: 1 done, 1 interrupted, 1 failed\n" in told


def test_ctrl_c_leaves_everything_resumable(sweep):
    assert sweep.stopped_status == 130
    assert "stopped; the same command continues" in sweep.stopped_told
    assert "\n3 runs: 1 done, " in sweep.stopped_told


def test_a_failed_run_is_retried_only_where_that_is_asked_for(sweep):
    assert "failed before, and not started again: sweep.retry_failed=true does" in sweep.stopped_told
    assert sweep.last_status == 1
    assert "\n3 runs: 2 done, 1 failed\n" in sweep.last_told
    assert (sweep.run(FAILS) / "log.txt").read_text().count("started: ") == 2
    assert sweep.done_before
    assert sweep.done_before.items() <= results(sweep.root).items()  # what is done is skipped
    done = [json.loads(path.read_text()) for path in sweep.root.glob("outputs/*/*/*/result.json")]
    assert {result["run"]["backbone"] for result in done} == {"small_of_mine"}


def test_mlflow_has_one_parent_and_its_children(sweep):
    runs = sweep.last_mlflow
    assert len(runs) == 4
    children = [run for name, run in runs.items() if name != "killed"]
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {runs["killed"].info.run_id}
    assert {run.data.tags["csa.sweep.killed"] for run in children} == {"true"}
    assert {name: run.info.status for name, run in runs.items() if name != "killed"} == {
        "0.011": "FINISHED", "0.012": "FINISHED", "1000000000000.0": "FAILED",
    }  # fmt: skip
    client = MlflowClient(f"sqlite:///{sweep.root / 'mlflow.db'}")
    for name in ("0.011", "0.012"):
        points = client.get_metric_history(runs[name].info.run_id, "loss")
        assert sorted(point.step for point in points) == list(range(EPOCHS))
    assert runs["killed"].data.tags["csa.runs.done"] == "2"
    assert runs["killed"].data.tags["csa.runs.failed"] == "1"


def test_mlflow_statuses_after_a_kill(sweep):
    assert sweep.child_mlflow["0.012"].info.status == "KILLED"
    assert sweep.stopped_mlflow["0.012"].info.status in ("KILLED", "FINISHED")


def test_a_cell_of_a_second_sweep_gets_its_tag(sweep):
    before = results(sweep.root)
    status, told = ended(start(sweep.root, *WORDS, "protocol.lr=0.011", "sweep.name=second"))
    assert status == 0, told
    assert "1 run: 1 done, 0 running, 0 interrupted, 0 failed, 0 planned; 0 to do" in told
    assert "\n1 run: 1 done\n" in told
    assert results(sweep.root) == before
    parents = {"killed": "FAILED", "second": "FINISHED"}
    wait_for(lambda: "csa.sweep.second" in sweep.settled(**parents)["0.011"].data.tags, pause=1.0)
    runs = sweep.settled(**parents)
    run = runs["0.011"]
    assert run.data.tags["csa.sweep.killed"] == run.data.tags["csa.sweep.second"] == "true"
    assert run.data.tags["mlflow.parentRunId"] == runs["killed"].info.run_id  # a run has one parent
