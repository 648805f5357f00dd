"""Several processes that train one run, started by torchrun, against one process with the global batch."""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from recorded_runs import start
from same_run import assert_same, contents
from test_resuming import EAGER
from tiny_words import TINY

from csa.config.host import World, process_world
from csa.data.batch import ALONE, Shard
from csa.tracking.record import Record
from csa.training.distributed import ProcessGroup
from csa.training.loop import Training
from csa.training.monitoring import Interruption, StoppedError
from csa.training.state import Position

HERE = Path(__file__).parent
TORCHRUN = ("-m", "torch.distributed.run", "--nproc-per-node", "2")
PLAIN = ("protocol.precision=fp32", "runtime.checkpoint_seconds=0")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{HERE}:{os.environ.get('PYTHONPATH', '')}"}


def csa(output_root: Path, *words: str, ending: str = "") -> subprocess.CompletedProcess[str]:
    """Two processes, which tell of their threads. ending: a signal, and the step after which the second gets it."""
    # Of --standalone, which finds one by itself, every step looks for its callers in all the modules there are.
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = f"--master-port={unused.getsockname()[1]}"
    training = ["-m", "ending", ending, *TINY, *PLAIN, f"output_root={output_root}", *words]
    command = [sys.executable, *TORCHRUN, port, *training]
    return subprocess.run(command, check=False, capture_output=True, text=True, env=ENVIRONMENT)


def done(output_root: Path, *words: str) -> Record:
    ended = csa(output_root, *words)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.count("threads left: []") == 2, ended.stdout
    return only_record(output_root)


def only_record(output_root: Path) -> Record:
    (folder,) = (path.parent for path in output_root.glob("*/*/*/identity.json"))
    return Record(folder)


# In double precision nothing is left after 20 steps. In single rounding is, of which training makes up to a
# hundred-thousandfold: double with weights moved by 2^-24 after every step drifts as far.
def test_two_processes_take_the_steps_of_one_with_the_whole_batch(tmp_path, configuration):
    """62 images in steps of 61 (30 and 31) and of 1, of which one process has none: 20 steps."""
    words = ("method=ce", "method.target=double_precision.Precise", "backbone=lenet", "protocol.lr=0.02")
    words += ("protocol.batch_size=61", "protocol.epochs=10")
    one = start(configuration(*PLAIN, *words))
    two = done(tmp_path / "two", *words)
    losses = [[line["loss"] for line in record.metrics()] for record in (one, two)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    weights = [contents(record)["weights"] for record in (one, two)]
    assert max(float((weights[0][name] - weights[1][name]).abs().max()) for name in weights[0]) < 1e-12
    assert all(state["momentum_buffer"].norm() > 0 for state in contents(two)["momentum"].values())  # it does train
    assert [line["images"] for line in two.metrics()] == [62] * 10
    assert two.result["processes"] == 2
    assert sum(map(sum, confusion(two))) == two.result["split"]["test_images"] == 50


def test_processes_ask_each_other_every_eighth_step_and_alone_at_each():
    """Whether to save, so that all save or none; at an epoch's end (no step of the next one taken) they always ask."""
    steps = [*range(1, 29), 0]
    runtime = SimpleNamespace(runtime=SimpleNamespace(checkpoint_seconds=math.inf))
    for share, asked in ((Shard(0, 2), [8, 16, 24, 0]), (ALONE, steps)):
        training: Any = object.__new__(Training)
        training._group, training._interruption = ProcessGroup(share), Interruption()
        training._config, training._saved_at = runtime, 0.0
        training._state = SimpleNamespace()
        training._interruption.status = 75
        told = []

        def greatest(value, told=told, training=training):
            told.append(training._state.at.step)
            return value

        training._group.greatest = greatest
        answers = []
        for step in steps:
            training._state.at = Position(step=step)
            answers.append(training._wants_checkpoint())
        assert told == [step for step, answer in zip(steps, answers, strict=True) if answer] == asked


def confusion(record: Record) -> list[list[int]]:
    import numpy as np

    with np.load(record.folder / "test_outputs.npz") as outputs:
        return outputs["confusion_classifier"].tolist()


def ended_early(folder: Path, ending: str, *words: str) -> tuple[Record, str]:
    """What is left, and what both told."""
    ended = csa(folder, *words, ending=ending)
    assert ended.returncode != 0, ended.stdout
    return only_record(folder), ended.stdout + ended.stderr


def test_one_process_killed_ends_the_other_and_the_run_is_continued(tmp_path):
    words = ("method=csa", *EAGER["csa"], "backbone=lenet", "protocol.epochs=3")
    record, told = ended_early(tmp_path / "killed", "SIGKILL 6", *words)
    assert record.state == "failed", told
    assert "another process of this run has ended" in json.loads((record.folder / "failure.json").read_text())["reason"]
    assert_same(contents(done(tmp_path / "killed", *words)), contents(done(tmp_path / "calm", *words)))


def test_one_process_stopped_stops_both_and_no_thread_of_gloo_is_left(tmp_path):
    """One that lets go of a tensor when Python ends aborts the process: a run that is to be continued would fail."""
    words = ("method=crt", "backbone=lenet", "protocol.epochs=3")
    record, told = ended_early(tmp_path, "SIGTERM 6", *words)
    assert record.state == "interrupted", told
    assert (told.count("threads there: ['"), told.count("threads left: []")) == (2, 2), told
    record = done(tmp_path, *words)
    assert "continued at stage 0" in (record.folder / "log.txt").read_text()
    assert {line["stage"] for line in record.metrics()} == {"train", "classifier"}


@pytest.mark.parametrize(("count", "kept"), [("2", True), ("1", False)])
def test_a_process_that_stops_with_others_is_not_ended_by_the_launcher(monkeypatch, count, kept):
    """Which asks all others to stop when the first of them has ended."""
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, count)
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    interruption = Interruption()
    try:
        with pytest.raises(StoppedError), interruption:
            raise StoppedError(75)
        assert (signal.getsignal(signal.SIGTERM) == before[1]) is not kept
        if kept:
            signal.raise_signal(signal.SIGTERM)
            assert interruption.status == 75
    finally:
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
            signal.signal(number, handler)


def test_a_sweep_refuses_several_processes():
    environment = {**ENVIRONMENT, "TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    ended = [
        subprocess.run(
            [sys.executable, "-m", "csa.run", "-m", "seed=0,1"],
            check=False, capture_output=True, text=True, env=environment | {"RANK": rank, "LOCAL_RANK": rank},
        )
        for rank in "01"
    ]  # fmt: skip
    assert [process.returncode for process in ended] == [2, 2]
    assert "-m: a sweep starts a process a run by itself, and 2 processes were started to sweep" in ended[0].stderr
    assert ended[1].stderr == ""


def test_the_world_of_a_launcher(monkeypatch):
    for name in ("TORCHELASTIC_RUN_ID", "SLURM_NTASKS", "SLURM_STEP_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "8")  # left over in the environment: nobody launched this process
    assert process_world() == World()
    for name, value in {"NTASKS": 8, "STEP_ID": 0, "NNODES": 2, "PROCID": 5, "LOCALID": 1}.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    assert process_world() == World(rank=5, size=8, local_rank=1, local_size=4)
    monkeypatch.setenv("SLURM_NTASKS", "1")
    assert process_world() == World()
