"""Runs as processes: slots, failures, kills, signals. The processes are scripts that act as runs do."""

from __future__ import annotations

import errno
import io
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from unittest.mock import Mock

import pytest
from plans import begin, plan_of

from csa.config.faults import UserError
from csa.sweep import processes, splits
from csa.sweep.processes import OUTPUT_NAME, Ending, Processes, Slot, SweepStopped, command_of
from csa.tracking.lease import Lease
from csa.tracking.record import Record

# What a run does, by its seed.
ACT = """
import json, os, pathlib, signal, sys, time
folder, seed = pathlib.Path(sys.argv[1]), int(sys.argv[2])
def write(name, value): (folder / name).write_text(json.dumps(value))
def done(): write("result.json", {"schema": 2, "seconds": 0.0})
def stopped(number, frame): write("stopped.json", number); sys.exit(75 if number == signal.SIGTERM else 130)
write("identity.json", {})
write("seen.json", {key: os.environ.get(key) for key in ("CSA_SLOT_THREADS", "CUDA_VISIBLE_DEVICES")})
if seed == 90:
    write("failure.json", {"reason": "the loss is not finite in epoch 3"}); sys.exit(1)
if seed == 91:
    print("out of memory, or so"); sys.exit(1)
if seed == 94:
    (folder / "identity.json").unlink(); print("csa: 1 fault; nothing was run or written"); sys.exit(2)
if seed == 92:
    os.kill(os.getpid(), signal.SIGKILL)
if seed == 93:
    os.kill(os.getpid(), signal.SIGSEGV)
if seed == 89:
    time.sleep(0.5)
if seed >= 95:
    signal.signal(signal.SIGTERM, stopped), signal.signal(signal.SIGINT, stopped)
    write("ready.json", True)
    while True: time.sleep(0.01)
done()
"""


@pytest.fixture(autouse=True)
def acting(monkeypatch):
    monkeypatch.setattr(
        processes, "command_of",
        lambda run, tree: [sys.executable, "-c", ACT, str(run.folder), str(run.config.seed)],
    )  # fmt: skip


@pytest.fixture
def runs(tmp_path):
    def of(*seeds: int):
        return plan_of(tmp_path, "method=ce", f"seed={','.join(map(str, seeds))}").runs

    return of


def run_all(runs, slots=2, *, stop_on_error=False):
    places = [Slot(number, 1, None) for number in range(slots)]
    endings = Processes(places, [], stop_on_error=stop_on_error).run(runs)
    return {run.config.seed: endings[run.fingerprint] for run in runs if run.fingerprint in endings}


def when(condition, then):
    """Do it once the condition holds, beside the test."""

    def work():
        while not condition():
            time.sleep(0.02)
        then()

    threading.Thread(target=work, daemon=True).start()


def test_failures_are_those_of_their_cells(runs):
    """A run that fails, one without a word, a killed one, a crash: the others are done."""
    every = runs(0, 90, 91, 92, 93, 1)
    endings = run_all(every)
    assert {seed: ending.how for seed, ending in endings.items()} == {
        0: "done", 90: "failed", 91: "failed", 92: "failed", 93: "failed", 1: "done",
    }  # fmt: skip
    assert endings[90].reason == "the loss is not finite in epoch 3"
    assert endings[91].reason == "out of memory, or so\nexit status 1"
    assert "SIGKILL; the next start continues it" in endings[92].reason
    assert "SIGSEGV" in endings[93].reason
    # A kill from outside leaves a run to be continued; what the run did itself is its failure.
    assert [run.state for run in every] == ["done", "failed", "failed", "interrupted", "failed", "done"]


def test_a_mistake_of_the_user_is_no_failure_of_the_run(runs):
    every = runs(94, 0)
    endings = run_all(every)
    assert endings[94] == Ending("failed", "csa: 1 fault; nothing was run or written", refused=True)
    assert [run.state for run in every] == ["planned", "done"]


def test_a_full_disk_fails_the_runs_and_not_the_sweep(runs, monkeypatch):
    full = OSError(errno.ENOSPC, "No space left on device")
    every = runs(0, 91)
    monkeypatch.setattr(Record, "fail", Mock(side_effect=full))
    endings = run_all(every)
    assert endings == {0: Ending("done"), 91: Ending("failed", "out of memory, or so\nexit status 1")}
    monkeypatch.setattr(processes.subprocess, "Popen", Mock(side_effect=full))
    endings = run_all(every[1:], slots=1)
    assert endings == {91: Ending("failed", f"No space left on device: {every[1].folder}")}
    assert run_all(runs(91, 92), slots=1, stop_on_error=True).keys() == {91}


def test_a_run_waits_for_the_stage_that_another_one_trains(tmp_path):
    plan = plan_of(tmp_path, "method=ce,crt", "seed=0,89")
    order = sorted(plan.runs, key=lambda run: run.config.seed, reverse=True)  # ce 89, crt 89, ce 0, crt 0
    Processes([Slot(number, 1, None) for number in range(2)], [], stop_on_error=False).run(order)
    ended = [(run.folder / "result.json").stat().st_mtime_ns for run in order]
    started = [(run.folder / "identity.json").stat().st_mtime_ns for run in order]
    assert started[1] > ended[0]  # crt after its ce
    assert started[2] < ended[0]  # and another run instead meanwhile


def test_a_continued_run_is_told_no_number_of_threads(tmp_path):
    (run,) = plan_of(tmp_path, "method=ce", "runtime.threads=3").runs
    words = command_of(run, [])
    assert [word for word in words if "threads" in word] == ["runtime.threads=3"]
    begin(run)
    run.record.checkpoint.write_bytes(b"")
    words = command_of(run, [])
    assert [word for word in words if "threads" in word][-1] == "runtime.threads=null"


def test_stop_starts_nothing_more(runs):
    endings = run_all(runs(0, 90, 1, 2), slots=1, stop_on_error=True)
    assert {seed: ending.how for seed, ending in endings.items()} == {0: "done", 90: "failed"}
    assert run_all(runs(0, 90, 1, 2), slots=1).keys() == {0, 90, 1, 2}


def test_a_retried_run_starts_without_its_old_failure(runs):
    (run,) = runs(0)
    begin(run)
    run.record.fail({"reason": "old"})
    assert run_all([run])[0].how == "done"
    assert run.state == "done"
    assert not (run.folder / "failure.json").exists()


def test_slots_are_kept(runs):
    every = runs(*range(5))
    seen = []
    original = Processes._spawn

    def spawn(self, run, slot):
        seen.append((run.config.seed, slot.number, len(self._children)))
        return original(self, run, slot)

    Processes._spawn, restore = spawn, original
    try:
        run_all(every, slots=2)
    finally:
        Processes._spawn = restore
    assert [seed for seed, _, _ in seen] == [0, 1, 2, 3, 4]
    assert {slot for _, slot, _ in seen} == {0, 1}
    assert max(already for _, _, already in seen) == 1


def test_a_run_sees_its_slots_gpu_and_threads(runs):
    every = runs(0, 1)
    Processes([Slot(0, 1, "4"), Slot(1, 1, "7")], [], stop_on_error=False).run(every)
    import json

    seen = [json.loads((run.folder / "seen.json").read_text()) for run in every]
    assert [one["CUDA_VISIBLE_DEVICES"] for one in seen] == ["4", "7"]
    assert [one["CSA_SLOT_THREADS"] for one in seen] == ["1", "1"]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_signal_reaches_every_run_and_the_sweep_waits_for_them(runs, number, status):
    every = runs(0, 95, 96, 1)
    running = [every[1].folder / "ready.json", every[2].folder / "ready.json"]
    when(lambda: all(path.exists() for path in running), lambda: os.kill(os.getpid(), number))
    with pytest.raises(SweepStopped) as stopped:
        run_all(every)
    assert stopped.value.code == status
    assert [run.state for run in every] == ["done", "interrupted", "interrupted", "planned"]
    for run in every[1:3]:
        assert int((run.folder / "stopped.json").read_text()) == number
    assert stopped.value.endings[every[0].fingerprint].how == "done"


def test_a_second_ctrl_c_ends_runs_that_do_not_listen(runs, monkeypatch):
    deaf = ACT.replace("signal.signal(signal.SIGINT, stopped)", "signal.signal(signal.SIGINT, signal.SIG_IGN)")
    monkeypatch.setattr(processes, "command_of", lambda run, tree: [sys.executable, "-c", deaf, str(run.folder), "95"])
    (run,) = runs(95)

    def twice():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGINT)

    when((run.folder / "ready.json").exists, twice)
    with pytest.raises(SweepStopped) as stopped:
        run_all([run])
    assert stopped.value.code == 130
    assert run.state == "interrupted"


def test_a_run_that_another_process_trains_is_waited_for(runs):
    every = runs(0, 1)
    every[0].folder.mkdir(parents=True)
    lease = Lease(every[0].folder)
    lease.__enter__()
    when(lambda: every[1].state == "done", lease.__exit__)
    assert {seed: ending.how for seed, ending in run_all(every, slots=1).items()} == {0: "done", 1: "done"}


def test_what_a_run_says_is_kept(runs):
    (run,) = runs(91)
    run_all([run])
    assert (run.folder / OUTPUT_NAME).read_text() == "out of memory, or so\n"


# --- processes that a sweep asks something of ---------------------------------------------------


def test_helpers_whose_parent_was_killed_say_nothing(monkeypatch, capsys):
    for content in (b"", pickle.dumps(["half"])[:-3]):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        with pytest.raises(SystemExit) as ended:
            splits.main()
        assert not ended.value.code
    assert capsys.readouterr() == ("", "")


def test_what_ends_the_process_that_reads_the_data_is_told(tmp_path, monkeypatch):
    (run,) = plan_of(tmp_path, "method=ce").runs
    config = replace(run.config, output_root=str(tmp_path / "new"))  # where no hash is remembered
    full = OSError(errno.ENOSPC, "No space left on device", "splits.json")
    answers = [subprocess.CompletedProcess([], 0, pickle.dumps(full)), subprocess.CompletedProcess([], -9, b"")]
    monkeypatch.setattr(splits.subprocess, "run", lambda *_, **__: answers.pop(0))
    with pytest.raises(OSError, match=r"No space left on device: 'splits\.json'"):
        splits.split_hashes([config])
    with pytest.raises(UserError, match="the process that reads the data was killed by SIGKILL"):
        splits.split_hashes([config])
