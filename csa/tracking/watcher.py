"""Trackers beside the training, in a process of their own: nothing that ails one slows or ends a run.

    training process, or sweep          watcher (python -m csa.tracking.watcher <folder> <its starter>)
    writes its record                   looks at the files every few seconds, has the tracker write what is new
    Watcher.close(), or its end         has the rest written, gives up a minute after the last success

The two share the files alone. ``tracking.open`` lies in the folder until its starter closes the watcher.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from csa.cli import settle_process
from csa.config.blocks import build_block
from csa.config.schema import TrackingConfig
from csa.tracking import sweeps
from csa.tracking.tracker import tracker_of
from csa.tracking.watched import LOOK_SECONDS, WatchedRun, WatchedSweep, noted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from csa.config.schema import Config
    from csa.tracking.run import State
    from csa.tracking.tracker import Tracker

POLL_SECONDS = 0.05
CLOSE_SECONDS = 4.0
GIVE_UP_SECONDS = 60.0
LONGEST_PAUSE = 30.0  # between attempts while training goes on
SETTLE_SECONDS = 1.0  # a run that was killed may still seem to live
NICENESS = 5
GAVE_UP = 1

LOG_NAME, OPEN_NAME = "tracking.log", "tracking.open"
SETTINGS = "CSA_TRACKING"
"""The variable by which the block ``tracking`` reaches the watcher: an address in it may hold a password."""


# --- the training's side --------------------------------------------------------------------


class Watcher:
    """Has a record's folder, a run's or a sweep's, tracked until it is closed.

    Nothing here raises, and nothing waits but ``close``. The watcher says what it does in ``tracking.log``.
    """

    def __init__(self, settings: TrackingConfig, folder: Path) -> None:
        self._settings, self._folder = settings, folder
        self._expected = False
        self._process: subprocess.Popen[bytes] | None = None
        self._trouble = ""

    def expect(self) -> None:
        """The record has begun and is to be tracked, from ``start`` on; ``close`` does not forget it."""
        self._expected = self._settings.target is not None

    def start(self) -> None:
        """The first call starts the process, whose imports are heavy."""
        if not self._expected or self._process is not None or self._trouble:
            return
        try:
            (self._folder / OPEN_NAME).touch()
            self._process = self._started()
        except OSError as error:  # no memory, no disk
            self._trouble = str(error)

    def close(self, seconds: float = CLOSE_SECONDS) -> str | None:
        """Let it finish, waiting at most so long; what is to be said about it, or None where all is sent."""
        self.start()
        with contextlib.suppress(OSError):
            (self._folder / OPEN_NAME).unlink()
        name = f"tracking={self._settings.name}"
        word = "" if self._settings.name == "mlflow" else f" {name}"
        sync = f"`python -m csa.records mode=sync{word}` sends what is missing"
        if self._process is None:
            return f"{name} was not written ({self._trouble}); {sync}" if self._trouble else None
        try:
            status = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            if trouble := self._noted_trouble():
                return f"{name} cannot be written ({trouble}); {sync}"
            return f"{name} is still being written in the background; should it be interrupted, {sync}"
        if status == 0:
            return None
        return f"{name} could not be written ({self._noted_trouble() or f'see {self._folder / LOG_NAME}'}); {sync}"

    def _started(self) -> subprocess.Popen[bytes]:
        own = {SETTINGS: json.dumps(asdict(self._settings)), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        with (self._folder / LOG_NAME).open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "csa.tracking.watcher", str(self._folder.resolve()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the training
                env=os.environ | own | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            )

    def _noted_trouble(self) -> str:
        sweep = sweeps.read(self._folder)
        for folder in (self._folder, *(sweeps.run_folders(self._folder, sweep) if sweep else ())):
            if trouble := noted(folder).get("trouble"):
                return str(trouble)
        return ""


class SweepTracking:
    """Context manager around the runs of a sweep: its record, and a watcher that has it and its runs tracked.

    Does nothing where they are not tracked, and nothing here raises.
    """

    def __init__(self, name: str, title: str, config: Config) -> None:
        self._on = config.tracking.target is not None
        self._name = re.sub(r"[^\w .:/-]", "_", name)  # what MLflow takes as part of a tag
        self._record = sweeps.SweepRecord(Path(config.output_root).expanduser(), self._name, title)
        self._watcher = Watcher(config.tracking, self._record.folder)
        self._end: tuple[Any, ...] = ("interrupted", {}, {})
        self.trouble: str | None = None

    def __enter__(self) -> SweepTracking:
        self.add(())
        self._watcher.expect()
        self._watcher.start()
        return self

    def add(self, folders: Sequence[Path]) -> None:
        """Folders of runs that belong to the sweep; tracked as soon as these begin."""
        if self._on:
            with contextlib.suppress(OSError):  # the watcher, which cannot write either, says so
                for folder in folders:
                    sweeps.note(folder, self._name)
                self._record.begin(folders)

    def end(
        self,
        status: sweeps.Status,
        counts: Mapping[State, int],
        means: Mapping[str, Mapping[str, float]] | None = None,
    ) -> None:
        """Say how the sweep ended, and with which accuracies of each cell; the last word counts."""
        self._end = (status, counts, means or {})

    def __exit__(self, *_: object) -> None:
        if self._on:
            with contextlib.suppress(OSError):
                self._record.end(*self._end)
            self.trouble = self._watcher.close()


# --- the watcher's side ---------------------------------------------------------------------


class Watching:
    """All that one watcher watches: a run, or a sweep and its runs, until it is closed or its starter is gone."""

    def __init__(self, folder: Path, tracker: Tracker[Any], starter: int) -> None:
        self._folder, self._tracker, self._starter = folder, tracker, starter
        self._sweep = WatchedSweep(folder, tracker, starter) if (folder / sweeps.NAME).exists() else None
        self._runs = {} if self._sweep else {folder: WatchedRun(folder, tracker)}

    @property
    def is_over(self) -> bool:
        return os.getppid() != self._starter or not (self._folder / OPEN_NAME).exists()

    def watch(self) -> int:
        """Push until it is over, then the rest; the exit status."""
        while not self.is_over:
            self._look(LONGEST_PAUSE)
            next_look = time.monotonic() + LOOK_SECONDS
            while time.monotonic() < next_look and not self.is_over:
                time.sleep(POLL_SECONDS)
        return self._finish()

    def _look(self, longest_pause: float, *, last: bool = False) -> int:
        """Push what is new; how many there are of which not all could be pushed."""
        waiting = 0
        if self._sweep is not None:
            waiting += not self._sweep.look(longest_pause)
            sweep = self._sweep.read()
            for folder in sweeps.run_folders(self._folder, sweep) if sweep is not None else ():
                if folder not in self._runs:
                    self._runs[folder] = WatchedRun(folder, self._tracker)
        for run in self._runs.values():
            if not run.look(longest_pause):
                waiting += 1
            elif last or run.ended:
                run.release()
        return waiting

    def _finish(self) -> int:
        """Push the rest, until a minute has brought nothing; the exit status."""
        settled = time.monotonic() + SETTLE_SECONDS
        while time.monotonic() < settled and any(run.state == "running" for run in self._runs.values()):
            time.sleep(POLL_SECONDS)
        for one in (*self._runs.values(), *filter(None, (self._sweep,))):
            one.due = 0.0
        success, before = time.monotonic(), math.inf
        while (left := self._look(LOOK_SECONDS, last=True)) and time.monotonic() - success < GIVE_UP_SECONDS:
            if left < before:
                success, before = time.monotonic(), left
            time.sleep(0.1)
        return GAVE_UP if left else 0


def be_nice() -> None:
    """Let whoever trains go first: as a process, and as the group that Linux makes of its session."""
    os.nice(NICENESS)
    with contextlib.suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(NICENESS))


def main(folder: str, starter: str) -> int:
    be_nice()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # meant for the training
    settle_process()
    tracker = tracker_of(build_block(TrackingConfig, json.loads(os.environ.pop(SETTINGS))))
    return 0 if tracker is None else Watching(Path(folder), tracker, int(starter)).watch()


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
