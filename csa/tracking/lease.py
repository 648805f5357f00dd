"""Two processes never train one run: a lease on its folder, held while training.

On one machine (and on file systems with shared locks) the operating system holds it and frees it
with the process, however that ends. For a folder shared between machines without such locks a
beat counter is watched: it says whether the holder lives without comparing two clocks, so that a
clock that jumps neither breaks nor steals a lease.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from csa.tracking.files import write_json

if TYPE_CHECKING:
    from pathlib import Path
    from typing import IO

BEAT_SECONDS = 5.0
LOCK_TRIES = 5
LOCK_PAUSE_SECONDS = 0.05
LOCK_NAME = "lease.lock"
LEASE_NAME = "lease.json"


class HeldError(Exception):
    """Another process is training this run."""


@dataclass(frozen=True)
class Holder:
    host: str
    pid: int
    beat: int

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


class Lease:
    """Context manager; raises HeldError where the run is being trained elsewhere."""

    def __init__(self, folder: Path, beat_seconds: float = BEAT_SECONDS) -> None:
        self._folder = folder
        self._beat_seconds = beat_seconds
        self._lock: IO[str] | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Lease:
        for _ in range(LOCK_TRIES):
            self._lock = _lock(self._folder)
            if self._lock is not None:
                break
            time.sleep(LOCK_PAUSE_SECONDS)  # ``is_held`` takes the lock for an instant to look
        os.register_at_fork(after_in_child=self._let_go)
        if self._lock is None:
            raise HeldError(f"{holder(self._folder) or 'another process'} is training {self._folder}")
        other = holder(self._folder)
        if other is not None and other.host != socket.gethostname() and self._beats(other):
            self._lock.close()
            raise HeldError(f"{other} is training {self._folder}")
        self._write(0)
        self._thread = threading.Thread(target=self._beat, name="csa-lease", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        (self._folder / LEASE_NAME).unlink(missing_ok=True)
        if self._lock is not None:
            self._lock.close()

    def _let_go(self) -> None:
        """In a child process (one that decodes images): it may outlive this one, and must not hold the run."""
        if self._lock is not None:
            self._lock.close()

    def _beats(self, other: Holder) -> bool:
        """Whether the beat of a holder on another machine moves within three intervals."""
        for _ in range(3):
            time.sleep(self._beat_seconds)
            now = holder(self._folder)
            if now is None or now != other:
                return now is not None
        return False

    def _beat(self) -> None:
        beat = 0
        while not self._stop.wait(self._beat_seconds):
            beat += 1
            try:
                self._write(beat)
            except OSError:
                continue  # a full disk must not end the run; the lock still holds

    def _write(self, beat: int) -> None:
        write_json(self._folder / LEASE_NAME, {"host": socket.gethostname(), "pid": os.getpid(), "beat": beat})


def holder(folder: Path) -> Holder | None:
    """Who wrote the lease last, living or not."""
    try:
        fields: dict[str, Any] = json.loads((folder / LEASE_NAME).read_text())
        return Holder(str(fields["host"]), int(fields["pid"]), int(fields["beat"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def is_held(folder: Path) -> bool:
    """Whether a process of this machine is training the run; a lease of another machine counts as held."""
    if not folder.is_dir():
        return False
    other = holder(folder)
    if other is None:
        return False
    if other.host != socket.gethostname():
        return True
    lock = _lock(folder)
    if lock is None:
        return True
    lock.close()
    return False


def _lock(folder: Path) -> IO[str] | None:
    stream = (folder / LOCK_NAME).open("a")
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        stream.close()
        return None
    return stream
