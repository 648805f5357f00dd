"""MLflow beside the training, in a process of its own: nothing that ails MLflow slows or ends a run.

    training process, or sweep            follower (python -m csa.tracking.follower)
    Follower.start()          --stdin-->  looks at the folders every few seconds, pushes what is new
    Follower.close()          --EOF---->  pushes the rest, gives up a minute after the last success

The end of the pipe is also the end of a process that was killed.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING, Any

from csa.cli import settle_process
from csa.config.address import DEFAULT_URI
from csa.tracking import sweeps
from csa.tracking.files import read_json
from csa.tracking.followed import LOOK_SECONDS, FollowedRun, FollowedSweep
from csa.tracking.store import settle_environment

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

CLOSE_SECONDS = 4.0
GIVE_UP_SECONDS = 60.0
LONGEST_PAUSE = 30.0  # between attempts while training goes on
SETTLE_SECONDS = 1.0  # a killed process closes its pipe and its lease one after the other
NICENESS = 5
GAVE_UP = 1
SYNC = "`python -m csa.records mode=sync` sends what is missing"


# --- the training's side --------------------------------------------------------------------


class Follower:
    """Mirrors run folders into MLflow until it is closed. Nothing here raises, and nothing waits but ``close``.

    uri: None is ``sqlite:///mlflow.db`` in the working directory; experiment, model: as in ``Mirror``;
    log: the file that takes what MLflow and the follower say; sweep: name and title of the one
    that these are the runs of.
    """

    def __init__(
        self,
        uri: str | None,
        experiment: str,
        log: Path,
        model: str | None = None,
        sweep: tuple[str, str] | None = None,
    ) -> None:
        self._settings = {"uri": uri or DEFAULT_URI, "experiment": experiment, "model": model, "sweep": sweep}
        self._log = log
        self._expected: list[Path] = []
        self._folders: list[Path] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._trouble = ""
        self._telling = Lock()

    def expect(self, folder: Path) -> None:
        """This run is to be mirrored, from ``start`` on; ``close`` does not forget it."""
        self._expected.append(folder)

    def start(self) -> None:
        """Mirror what is expected; the first call starts the process, whose imports are heavy."""
        try:
            if self._process is None and (self._expected or self._settings["sweep"]):
                self._process = self._started()
                self._tell(self._settings)
            while self._expected:
                self._tell({"folder": str(self._expected[0].resolve())})
                self._folders.append(self._expected.pop(0))
        except OSError as error:  # no memory, no disk, or the process is gone
            self._trouble = str(error)
            self._expected.clear()

    def follow(self, folder: Path) -> None:
        """Mirror this run from now on."""
        self.expect(folder)
        self.start()

    def end(self, how: Mapping[str, Any]) -> None:
        """How the sweep ended: status, counts of its runs by state, means of its cells. The last word counts."""
        with contextlib.suppress(OSError):  # a follower that is gone, or does not read: its sweep then counts as killed
            self._tell({"end": how}, CLOSE_SECONDS)

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

    def _tell(self, message: dict[str, Any], patience: float = 0.0) -> None:
        """One line, at once or not at all: a follower that does not read must not hold up the training.

        patience: seconds that one may take which does not fit into the pipe.
        """
        if self._process is None:
            return
        assert self._process.stdin is not None
        rest, until = (json.dumps(message) + "\n").encode(), time.monotonic() + patience
        with self._telling:
            while rest:
                try:
                    rest = rest[os.write(self._process.stdin.fileno(), rest) :]
                except BlockingIOError:
                    if time.monotonic() > until:
                        raise
                    time.sleep(0.05)

    def _noted_trouble(self) -> str:
        for folder in self._folders:
            with contextlib.suppress(OSError, ValueError):
                if trouble := read_json(folder / "mlflow.json")["trouble"]:
                    return str(trouble)
        return ""


# --- the follower's side --------------------------------------------------------------------


class Orders:
    """What the training process says, line by line, read beside the pushing; ``ended`` when it is gone."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = filter(_is_whole, lines)
        self.settings: dict[str, Any] = json.loads(next(self._lines, "{}"))  # none, where it was killed at once
        self.messages: list[dict[str, Any]] = []
        self.ended = Event()
        Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self._lines:
            self.messages.append(json.loads(line))
        self.ended.set()


def _is_whole(line: str) -> bool:
    return line.endswith("\n")


class Following:
    """All that a follower follows: runs, and the sweep that they belong to, if it is a sweep's."""

    def __init__(self, uri: str, experiment: str, model: str | None, sweep: tuple[str, str] | None) -> None:
        self._uri, self._experiment, self._model = uri, experiment, model
        self._runs: dict[Path, FollowedRun] = {}
        self._unnoted: set[Path] = set()  # folders that do not know the sweep's run yet
        self._sweep = FollowedSweep(*sweep, uri, experiment) if sweep is not None else None

    def obey(self, message: dict[str, Any]) -> None:
        if "folder" in message:
            self._follow(Path(message["folder"]))
            self._unnoted.add(Path(message["folder"]))
        elif self._sweep is not None:
            self._sweep.end = message["end"]

    def look(self, longest_pause: float, *, last: bool = False) -> int:
        """Push what is new; how many there are that are not at their end yet, or last, could not be pushed."""
        waiting = 0
        if self._sweep is not None:
            self._sweep.is_over = last
            waiting += not self._sweep.look(longest_pause)
            self._note_sweep(self._sweep)
        for folder, run in list(self._runs.items()):
            if run.look(longest_pause) and (last or run.ended):
                run.release()
                del self._runs[folder]
        return waiting + len(self._runs)

    def finish(self) -> int:
        """Push the rest, until a minute has brought nothing; the exit status."""
        settled = time.monotonic() + SETTLE_SECONDS
        while time.monotonic() < settled and any(run.state == "running" for run in self._runs.values()):
            time.sleep(0.05)
        for one in (*self._runs.values(), self._sweep):
            if one is not None:
                one.due = 0.0
        success, before = time.monotonic(), math.inf
        while (left := self.look(LOOK_SECONDS, last=True)) and time.monotonic() - success < GIVE_UP_SECONDS:
            if left < before:
                success, before = time.monotonic(), left
            time.sleep(0.1)
        return GAVE_UP if left else 0

    def _follow(self, folder: Path) -> None:
        if folder not in self._runs:
            self._runs[folder] = FollowedRun(folder, self._uri, self._experiment, self._model)

    def _note_sweep(self, sweep: FollowedSweep) -> None:
        """In the folders; a run that has been pushed to its end is pushed again."""
        for folder in list(self._unnoted if sweep.run_id else ()):
            with contextlib.suppress(OSError):
                if sweeps.note(folder, sweep.name, sweep.run_id):
                    self._follow(folder)
                self._unnoted.remove(folder)


def follow(orders: Orders) -> int:
    """Push until the training process is gone, then the rest; the exit status."""
    if not orders.settings:
        return 0
    following = Following(**orders.settings)
    while True:
        ended = orders.ended.is_set()
        while orders.messages:
            following.obey(orders.messages.pop(0))
        if ended:
            return following.finish()
        following.look(LONGEST_PAUSE)
        orders.ended.wait(LOOK_SECONDS)


def be_nice() -> None:
    """Let whoever trains go first: as a process, and as the group that Linux makes of its session."""
    os.nice(NICENESS)
    with contextlib.suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(NICENESS))


def main() -> int:
    be_nice()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # meant for the training; its end shows at the pipe
    settle_environment()
    settle_process()
    return follow(Orders(sys.stdin))


if __name__ == "__main__":
    raise SystemExit(main())
