"""MLflow beside the training, in a process of its own: nothing that ails MLflow slows or ends a run.

    training process                      follower (python -m csa.tracking.follower)
    Follower.start()          --stdin-->  looks at the folder every few seconds, pushes what is new
    Follower.close()          --EOF---->  pushes the rest, gives up a minute after the last success

The end of the pipe is also the end of a training process that was killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import IO, TYPE_CHECKING, Any

from csa.cli import settle_process
from csa.tracking.files import read_json
from csa.tracking.mirror import Mirror, StartedOverError
from csa.tracking.record import Record
from csa.tracking.store import DEFAULT_URI, settle_environment, try_lock

if TYPE_CHECKING:
    from collections.abc import Iterable

CLOSE_SECONDS = 4.0
LOOK_SECONDS = 2.0
GIVE_UP_SECONDS = 60.0
LONGEST_PAUSE = 30.0  # between attempts while training goes on
SETTLE_SECONDS = 1.0  # a killed process closes its pipe and its lease one after the other
NICENESS = 10
GAVE_UP = 1
LOCK_NAME = "mlflow.lock"
LOOKED_AT = ("identity.json", "metrics.jsonl", "result.json", "failure.json", "sweeps.json")
SYNC = "`python -m csa.records mode=sync` sends what is missing"


# --- the training's side --------------------------------------------------------------------


class Follower:
    """Mirrors run folders into MLflow until it is closed. Nothing here raises, and nothing waits but ``close``.

    uri: None is ``sqlite:///mlflow.db`` in the working directory; experiment, model: as in ``Mirror``;
    log: the file that takes what MLflow and the follower say.
    """

    def __init__(self, uri: str | None, experiment: str, log: Path, model: str | None = None) -> None:
        self._settings = {"uri": uri or DEFAULT_URI, "experiment": experiment, "model": model}
        self._log = log
        self._expected: list[Path] = []
        self._folders: list[Path] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._trouble = ""

    def expect(self, folder: Path) -> None:
        """This run is to be mirrored, from ``start`` on; ``close`` does not forget it."""
        self._expected.append(folder)

    def start(self) -> None:
        """Mirror what is expected; the first call starts the process, whose imports are heavy."""
        try:
            while self._expected:
                if self._process is None:
                    self._process = self._started()
                    self._tell(self._settings)
                self._tell({"folder": str(self._expected[0].resolve())})
                self._folders.append(self._expected.pop(0))
        except OSError as error:  # no memory, no disk, or the process is gone
            self._trouble = str(error)
            self._expected.clear()

    def follow(self, folder: Path) -> None:
        """Mirror this run from now on."""
        self.expect(folder)
        self.start()

    def close(self, seconds: float = CLOSE_SECONDS) -> str | None:
        """Let it finish, waiting at most so long; what is to be said about it, or None where all is sent."""
        self.start()
        if self._process is None:
            return f"MLflow was not written ({self._trouble}); {SYNC}" if self._trouble else None
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            status = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            trouble = self._trouble or self._noted_trouble()
            if trouble:
                return f"MLflow cannot be written ({trouble}); {SYNC}"
            return f"MLflow is still being written in the background; should it be interrupted, {SYNC}"
        if status == 0 and not self._trouble:
            return None
        reason = self._trouble or self._noted_trouble() or f"see {self._log}"
        return f"MLflow could not be written ({reason}); {SYNC}"

    def _started(self) -> subprocess.Popen[bytes]:
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "csa.tracking.follower"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the training
                env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            )
        assert process.stdin is not None
        os.set_blocking(process.stdin.fileno(), False)
        return process

    def _tell(self, message: dict[str, Any]) -> None:
        """One line, at once or not at all: a follower that does not read must not hold up the training."""
        assert self._process is not None
        assert self._process.stdin is not None
        os.write(self._process.stdin.fileno(), (json.dumps(message) + "\n").encode())

    def _noted_trouble(self) -> str:
        for folder in self._folders:
            with contextlib.suppress(OSError, ValueError):
                if trouble := read_json(folder / "mlflow.json")["trouble"]:
                    return str(trouble)
        return ""


# --- the follower's side --------------------------------------------------------------------


@dataclass
class Followed:
    """One folder: who writes its mirror, what of it was pushed last, when to try again."""

    folder: Path
    settings: dict[str, Any]
    mirror: Mirror | None = None
    lock: IO[str] | None = None
    pushed: tuple[Any, ...] | None = None
    failures: int = 0
    due: float = field(default=0.0)

    def look(self, longest_pause: float) -> bool:
        """Push what is new; whether nothing is left to push for now."""
        if time.monotonic() < self.due:
            return False
        present = self._signature()
        if present == self.pushed:
            return True
        try:
            if not self._has_lock():
                self.due = time.monotonic() + min(LOOK_SECONDS, longest_pause)
                return False
            assert self.mirror is not None
            self.mirror.push()
        except Exception as error:  # whatever MLflow raises, it is tried again
            self._fail(error, longest_pause)
            return False
        self.failures, self.pushed = 0, present
        return True

    def release(self) -> None:
        if self.lock is not None:
            self.lock.close()
        self.lock = self.mirror = None

    @property
    def state(self) -> str:
        return Record(self.folder).state

    @property
    def ended(self) -> bool:
        """Whether MLflow has the end of the run, not only what there was when a slow push began."""
        return self.pushed is not None and self.pushed[0] in ("done", "failed")

    def _signature(self) -> tuple[Any, ...]:
        """Changes whenever the folder has something new to push."""
        found: list[Any] = [self.state]
        for name in LOOKED_AT:
            with contextlib.suppress(FileNotFoundError):
                about = (self.folder / name).stat()
                found.append((name, about.st_mtime_ns, about.st_size))
        return tuple(found)

    def _has_lock(self) -> bool:
        """One process writes a run's mirror at a time; another may still be finishing an earlier start."""
        if self.lock is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.lock = try_lock(self.folder / LOCK_NAME)
            if self.lock is not None:
                self.mirror = Mirror(self.folder, **self.settings)
        return self.lock is not None

    def _fail(self, error: Exception, longest_pause: float) -> None:
        self.failures += 1
        self.due = time.monotonic() + min(LOOK_SECONDS * 2**self.failures, longest_pause)
        said = f"{self.folder}: {type(error).__name__}: {error}"
        print(time.strftime("%H:%M:%S"), said, file=sys.stderr, flush=True)
        if isinstance(error, StartedOverError):
            self.release()
        if self.mirror is not None:
            with contextlib.suppress(Exception):
                self.mirror.note_trouble(error)


class _Orders:
    """What the training process says, line by line, read beside the pushing; ``ended`` when it is gone."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = iter(lines)
        self.settings: dict[str, Any] = json.loads(next(self._lines))
        self.folders: list[Path] = []
        self.ended = Event()
        Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self._lines:
            self.folders.append(Path(json.loads(line)["folder"]))
        self.ended.set()


def follow(orders: _Orders) -> int:
    """Push until the training process is gone, then the rest; the exit status."""
    followed: dict[Path, Followed] = {}
    while not orders.ended.is_set():
        _take(orders, followed)
        for path, one in list(followed.items()):
            if one.look(LONGEST_PAUSE) and one.ended:
                one.release()
                del followed[path]
        orders.ended.wait(LOOK_SECONDS)
    _take(orders, followed)
    _settle(followed.values())
    return _finish(list(followed.values()))


def _take(orders: _Orders, followed: dict[Path, Followed]) -> None:
    while orders.folders:
        folder = orders.folders.pop(0)
        followed.setdefault(folder, Followed(folder, orders.settings))


def _settle(followed: Iterable[Followed]) -> None:
    deadline = time.monotonic() + SETTLE_SECONDS
    while time.monotonic() < deadline and any(one.state == "running" for one in followed):
        time.sleep(0.05)


def _finish(left: list[Followed]) -> int:
    success = time.monotonic()
    for one in left:
        one.due = 0.0
    while left and time.monotonic() - success < GIVE_UP_SECONDS:
        before = len(left)
        left = [one for one in left if not one.look(LOOK_SECONDS)]
        if len(left) < before:
            success = time.monotonic()
        time.sleep(0.1 if left else 0)
    return GAVE_UP if left else 0


def main() -> int:
    os.nice(NICENESS)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # meant for the training; its end shows at the pipe
    settle_environment()
    settle_process()
    return follow(_Orders(sys.stdin))


if __name__ == "__main__":
    raise SystemExit(main())
