"""A lease: one holder, freed with its process, indifferent to clocks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from csa.tracking.lease import HeldError, Lease, holder, is_held

HOLD = """
import sys, time
from pathlib import Path
from csa.tracking.lease import Lease
with Lease(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""
BEAT = """
import json, sys, time
for beat in range(100):
    open(sys.argv[1], "w").write(json.dumps({"host": "elsewhere", "pid": 1, "beat": beat}))
    time.sleep(0.05)
"""


@pytest.fixture
def other_process(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_process_is_refused_and_told_who_holds(tmp_path, other_process):
    with pytest.raises(HeldError, match=f"process {other_process.pid} on "), Lease(tmp_path):
        pass
    assert is_held(tmp_path)


def test_a_killed_holder_frees_the_lease_at_once(tmp_path, other_process):
    other_process.send_signal(signal.SIGKILL)
    other_process.wait()
    assert holder(tmp_path) is not None  # it could not tidy up
    assert not is_held(tmp_path)
    with Lease(tmp_path):
        assert is_held(tmp_path)
    assert not is_held(tmp_path)


def test_the_lease_is_gone_after_use_and_can_be_taken_again(tmp_path):
    for _ in range(2):
        with Lease(tmp_path):
            assert holder(tmp_path) is not None
        assert holder(tmp_path) is None


def write_foreign(folder, beat: int) -> None:
    (folder / "lease.json").write_text(json.dumps({"host": "elsewhere", "pid": 1, "beat": beat}))


def test_a_silent_holder_on_another_machine_loses_the_lease(tmp_path):
    write_foreign(tmp_path, 7)
    assert is_held(tmp_path)  # it may live: only waiting tells
    with Lease(tmp_path, beat_seconds=0.02):
        mine = holder(tmp_path)
        assert mine is not None
        assert mine.host != "elsewhere"


def test_a_beating_holder_on_another_machine_keeps_it(tmp_path):
    write_foreign(tmp_path, 7)
    with subprocess.Popen([sys.executable, "-c", BEAT, str(tmp_path / "lease.json")]) as beating:
        time.sleep(0.3)
        with pytest.raises(HeldError, match="process 1 on elsewhere"), Lease(tmp_path, beat_seconds=0.3):
            pass
        beating.kill()


def test_a_clock_that_jumps_changes_nothing(tmp_path, monkeypatch):
    with Lease(tmp_path, beat_seconds=0.01):
        monkeypatch.setattr(time, "time", lambda: -1e9)
        assert is_held(tmp_path)
        monkeypatch.setattr(time, "time", lambda: 4e9)
        assert is_held(tmp_path)


def test_a_child_process_does_not_hold_the_run(tmp_path):
    """As the processes that decode images are: forked while the run is held, and alive for a while after it."""
    with Lease(tmp_path):
        child = os.fork()
        if not child:
            time.sleep(60)
            os._exit(0)
    try:
        with Lease(tmp_path):
            assert is_held(tmp_path)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
