"""Two processes never train one run: a lease on its folder, held while training.

On one machine (and on file systems with shared locks) the operating system holds it and frees it
with the process, however that ends. Where it cannot tell, because the folder is shared between machines without
such locks or the holder's container is gone, its heartbeat does: whoever wants the lease watches whether the beat
counts on, without comparing two clocks; whoever only looks asks how long ago the last one was.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from csa.tracking.files import UNREADABLE, NoLocksError, lock_file, read_json, write_json

if TYPE_CHECKING:
    from typing import IO

BEAT_SECONDS = 5.0
SILENT_BEATS = 3
"""After so many intervals without a beat a holder of whom nothing else is known counts as gone."""
LOCK_TRIES = 5
LOCK_PAUSE_SECONDS = 0.05
LOCK_NAME = "lease.lock"
LEASE_NAME = "lease.json"
BOOT = Path("/proc/sys/kernel/random/boot_id")


class HeldError(Exception):
    """Another process is training this run."""


@dataclass(frozen=True)
class Holder:
    """boot: names the machine's start, so that after the next one nobody is taken for who has the number now."""

    host: str
    pid: int
    beat: int
    boot: str = ""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"

    @property
    def is_here(self) -> bool:
        """Whether this machine can tell if it lives."""
        return (self.host, self.boot) == (socket.gethostname(), _boot())

    @property
    def lives(self) -> bool:
        """Of one that is here."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:  # another user's
            return True
        return True


class Lease:
    """Context manager; raises HeldError where the run is being trained elsewhere."""

    def __init__(self, folder: Path, beat_seconds: float = BEAT_SECONDS) -> None:
        self._folder = folder
        self._beat_seconds = beat_seconds
        self._lock: IO[str] | None = None
        self._own = this_process()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Lease:
        try:
            self._take_lock()
        except NoLocksError:
            self._take_without_lock()
        os.register_at_fork(after_in_child=self._let_go)
        self._thread = threading.Thread(target=self._beat, name="csa-lease", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        (self._folder / LEASE_NAME).unlink(missing_ok=True)
        self._let_go()

    def _take_lock(self) -> None:
        for _ in range(LOCK_TRIES):
            self._lock = lock_file(self._folder / LOCK_NAME)
            if self._lock is not None:
                break
            time.sleep(LOCK_PAUSE_SECONDS)  # ``is_held`` takes the lock for an instant to look
        other = holder(self._folder)
        if self._lock is None:
            raise HeldError(f"{other or 'another process'} is training {self._folder}")
        if other is not None and not other.is_here and self._beats(other):
            self._let_go()
            raise HeldError(f"{other} is training {self._folder}")
        self._write(self._own)

    def _take_without_lock(self) -> None:
        """Of two that come at the same time the later to write has it."""
        other = holder(self._folder)
        if other is not None and (other.lives if other.is_here else self._beats(other)):
            raise HeldError(f"{other} is training {self._folder}")
        self._write(self._own)
        time.sleep(min(self._beat_seconds, 1))
        if (other := holder(self._folder)) != self._own:
            raise HeldError(f"{other or 'another process'} is training {self._folder}")

    def _let_go(self) -> None:
        """Also in a child process (one that decodes images): it may outlive this one, and must not hold the run."""
        if self._lock is not None:
            self._lock.close()

    def _beats(self, other: Holder) -> bool:
        """Whether the beat of a holder of whom this machine cannot tell moves."""
        for _ in range(SILENT_BEATS):
            time.sleep(self._beat_seconds)
            now = holder(self._folder)
            if now is None or now != other:
                return now is not None
        return False

    def _beat(self) -> None:
        beat = 0
        while not self._stop.wait(self._beat_seconds):
            beat += 1
            with suppress(OSError):  # a full disk must not end the run; the lock still holds
                self._write(replace(self._own, beat=beat))

    def _write(self, own: Holder) -> None:
        write_json(self._folder / LEASE_NAME, asdict(own))


def this_process() -> Holder:
    return Holder(socket.gethostname(), os.getpid(), 0, _boot())


def holder(folder: Path) -> Holder | None:
    """Who wrote the lease last, living or not."""
    try:
        fields: dict[str, Any] = read_json(folder / LEASE_NAME)
        return Holder(str(fields["host"]), int(fields["pid"]), int(fields["beat"]), str(fields.get("boot", "")))
    except (*UNREADABLE, AttributeError):
        return None


def is_held(folder: Path) -> bool:
    """Whether a process is training the run, as far as a look can tell: taking the lease is what counts."""
    other = holder(folder)
    if other is None:
        return False
    try:
        lock = lock_file(folder / LOCK_NAME)
    except NoLocksError:
        if other.is_here:
            return other.lives
    except OSError:  # not ours to write to
        pass
    else:
        if lock is None:
            return True
        lock.close()
        if other.is_here:
            return False
    return _silence(folder) < SILENT_BEATS * BEAT_SECONDS


def _silence(folder: Path) -> float:
    """Seconds since the last beat."""
    try:
        return time.time() - (folder / LEASE_NAME).stat().st_mtime
    except FileNotFoundError:
        return float("inf")


def _boot() -> str:
    try:
        return BOOT.read_text().strip()
    except OSError:
        return ""
