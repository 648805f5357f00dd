"""A lease: one holder, freed with its process, indifferent to clocks."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from itertools import count

import pytest

from csa.tracking.lease import BEAT_SECONDS, BOOT, SILENT_BEATS, HeldError, Lease, holder, is_held

HOLD = """
import sys, time
from pathlib import Path
from csa.tracking.lease import Lease
with Lease(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
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


# --- a file system without locks ---------------------------------------------------------------


def without_locks(monkeypatch) -> None:
    def refused(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refused)


def test_without_locks_the_process_is_asked_for(tmp_path, other_process, monkeypatch):
    without_locks(monkeypatch)
    assert is_held(tmp_path)
    with pytest.raises(HeldError, match=f"process {other_process.pid} on "), Lease(tmp_path):
        pass
    other_process.kill()
    other_process.wait()
    assert not is_held(tmp_path)
    with Lease(tmp_path, beat_seconds=0.01):
        assert is_held(tmp_path)
    assert not is_held(tmp_path)


def test_without_locks_the_later_of_two_has_the_lease(tmp_path, monkeypatch):
    without_locks(monkeypatch)
    monkeypatch.setattr(time, "sleep", lambda _: write_foreign(tmp_path, 0))
    with pytest.raises(HeldError, match="process 1 on elsewhere"), Lease(tmp_path):
        pass


# --- a holder of whom this machine cannot tell -------------------------------------------------


def write_foreign(folder, beat: int) -> None:
    (folder / "lease.json").write_text(json.dumps({"host": "elsewhere", "pid": 1, "beat": beat}))


@pytest.mark.parametrize(
    "fields", [{"host": "elsewhere"}, {"boot": "before"}, {"host": "elsewhere", "pid": os.getpid()}]
)
def test_a_holder_that_cannot_be_asked_lives_as_long_as_it_beats(tmp_path, fields):
    """Of another machine, of a container that is gone, of this machine before its last start."""
    own = {"host": socket.gethostname(), "boot": BOOT.read_text().strip(), "pid": 1, "beat": 7}
    lease = tmp_path / "lease.json"
    lease.write_text(json.dumps(own | fields))
    assert is_held(tmp_path)
    long_ago = time.time() - SILENT_BEATS * BEAT_SECONDS - 1
    os.utime(lease, (long_ago, long_ago))
    assert not is_held(tmp_path)
    lease.write_text(json.dumps(own))
    assert not is_held(tmp_path)  # of this one nobody has the lock


def test_a_silent_holder_on_another_machine_loses_the_lease(tmp_path):
    write_foreign(tmp_path, 7)
    with Lease(tmp_path, beat_seconds=0.02):
        mine = holder(tmp_path)
        assert mine is not None
        assert mine.host != "elsewhere"


def test_a_beating_holder_on_another_machine_keeps_it(tmp_path, monkeypatch):
    beats = count()
    write_foreign(tmp_path, next(beats))
    monkeypatch.setattr(time, "sleep", lambda _: write_foreign(tmp_path, next(beats)))
    with pytest.raises(HeldError, match="process 1 on elsewhere"), Lease(tmp_path):
        pass


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
