"""The same cells by our launcher, by submitit and by Ray: the same results."""

from __future__ import annotations

import json
import os
import signal

import numpy as np
import pytest
from started import LENET, ended, folder_of, start, training, wait_for

WORDS = ("-m", *LENET, "tracking=none", "seed=0,1", "protocol.epochs=60")
LOCAL = ("hydra/launcher=local", "sweep.slots=2")
SUBMITIT = ("hydra/launcher=submitit_local",)
RAY = ("hydra/launcher=ray", "+hydra.launcher.ray.init.num_cpus=1", "+hydra.launcher.ray.init.include_dashboard=false")
HASTY = """
from submitit.core.core import Job
from csa.entry import hydra_main
from csa.run import run
Job._results_timeout_s = 0  # it waits 15 seconds for what a job that was killed may have left on a slow disk
hydra_main(run)
"""
NOT_THE_RESULT = ("seconds", "evaluation_seconds", "images_per_second")


def results(root) -> dict[str, tuple]:
    """Everything of a record but its times, by the run's folder name."""
    found = {}
    for path in root.glob("outputs/*/*/*/result.json"):
        lines = [json.loads(line) for line in (path.parent / "metrics.jsonl").read_text().splitlines()]
        metrics = [{key: value for key, value in line.items() if key not in NOT_THE_RESULT} for line in lines]
        with np.load(path.parent / "test_outputs.npz") as outputs:
            arrays = {name: outputs[name].tobytes() for name in outputs.files}
        found[path.parent.name] = (metrics, json.loads(path.read_text())["heads"], arrays)
    return found


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    root = tmp_path_factory.mktemp("local")
    status, told = ended(start(root, *WORDS, *LOCAL))
    assert status == 0, told
    found = results(root)
    assert len(found) == 2
    return found


def test_ray(expected, tmp_path):
    status, told = ended(start(tmp_path, *WORDS, *RAY))
    assert status == 0, told
    assert told.splitlines()[-1] == "2 runs: 2 done"  # nothing of what the workers print
    assert results(tmp_path) == expected


def test_submitit(expected, tmp_path):
    """One job is warned of its time-out, one is killed: the first is queued again and goes on, the other is told."""
    (tmp_path / "hasty.py").write_text(HASTY)
    sweep = start(tmp_path, *WORDS, *SUBMITIT, module="hasty")
    signals = {0: signal.SIGUSR2, 1: signal.SIGKILL}

    def all_sent() -> bool:
        for seed in [*signals]:
            if (pid := training(folder_of(tmp_path, f"\nseed: {seed}\n"))) is not None:
                os.kill(pid, signals.pop(seed))
        return not signals

    wait_for(all_sent, sweep, pause=0.02)
    status, told = ended(sweep)
    assert status == 1, told
    assert "failed: seed=1" in told
    assert "failed: seed=0" not in told
    assert "the next start continues it" in told
    assert told.splitlines()[-1] == "2 runs: 1 done, 1 interrupted"
    assert "continued at stage" in (folder_of(tmp_path, "\nseed: 0\n") / "log.txt").read_text()
    status, told = ended(start(tmp_path, *WORDS, *SUBMITIT))
    assert status == 0, told
    assert results(tmp_path) == expected
