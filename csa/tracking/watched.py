"""What is watched: a run or a sweep, pushed to a tracker again and again until all of it is there; or once, later.

``tracking.json`` beside the record says what was pushed last, and why it could not be.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import IO, TYPE_CHECKING, Any
from uuid import uuid4

from csa.config.faults import first_line, without_passwords
from csa.tracking import sweeps
from csa.tracking.files import UNREADABLE, read_json, try_lock, write_json
from csa.tracking.run import Run
from csa.tracking.snapshot import Snapshot
from csa.tracking.tracker import Tracker

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOOK_SECONDS = 2.0
LOCK_NAME, NOTE_NAME = "tracking.lock", "tracking.json"
LOOKED_AT = ("identity.json", "metrics.jsonl", "result.json", "failure.json", sweeps.OF_A_RUN)


def noted(folder: Path) -> dict[str, Any]:
    """What watchers of a folder noted: ``settings``, ``pushed`` and ``trouble`` of the last one; ``key`` of the run."""
    try:
        return dict(read_json(folder / NOTE_NAME))
    except UNREADABLE:
        return {}


class Watched(ABC):
    """A folder whose record is to be tracked; whatever the tracker raises, it is asked again, later each time.

    One process asks a tracker for it at a time: another may still be finishing an earlier start.
    """

    said = ""
    """What the last push sent, in words."""

    def __init__(self, folder: Path, tracker: Tracker[Any]) -> None:
        self.folder, self._tracker = folder, tracker
        self._failures, self.due = 0, 0.0
        self._lock: IO[str] | None = None
        self._settings = without_passwords(json.dumps(asdict(tracker.settings)))
        note = noted(folder)
        self._troubled = bool(note.get("trouble"))
        self._pushed = note.get("pushed") if note.get("settings") == self._settings else None

    def look(self, longest_pause: float) -> bool:
        """Push what is new, unless it is too early for another try; whether nothing is left to push for now."""
        if time.monotonic() < self.due:
            return False
        try:
            pushed = self.push()
        except Exception as error:
            self._failures += 1
            self._pause(LOOK_SECONDS * 2**self._failures, longest_pause)
            said = without_passwords(f"{self.folder}: {type(error).__name__}: {error}")
            print(time.strftime("%H:%M:%S"), said, file=sys.stderr, flush=True)
            return False
        self._failures = 0
        if not pushed:
            self._pause(LOOK_SECONDS, longest_pause)
        return pushed

    def push(self, *, anyway: bool = False) -> bool:
        """Push what is new, or anyway all; False where another process does. Raises what the tracker raises."""
        present = self._signature()
        if present == self._pushed and not anyway:
            return True
        if self._lock is None:
            self._lock = try_lock(self.folder / LOCK_NAME)
        if self._lock is None:
            return False
        try:
            self._push()
        except Exception as error:
            self._tracker.close(self.folder)
            self._note(trouble=_trouble(error))
            raise
        self._pushed = present
        if self.ended or self._troubled:
            self._note(pushed=present)
        return True

    def release(self) -> None:
        self._tracker.close(self.folder)
        if self._lock is not None:
            self._lock.close()
        self._lock = None

    def _pause(self, seconds: float, longest: float) -> None:
        self.due = time.monotonic() + min(seconds, longest)

    def _note(self, *, pushed: list[Any] | None = None, trouble: str | None = None) -> None:
        self._troubled = trouble is not None
        own = {"settings": self._settings, "pushed": pushed, "trouble": trouble}
        with contextlib.suppress(OSError):
            write_json(self.folder / NOTE_NAME, noted(self.folder) | own)

    @property
    def ended(self) -> bool:
        """Whether the end was pushed, not only what there was when a slow push began."""
        return self._pushed is not None and self._pushed[0] in ("done", "failed")

    @abstractmethod
    def _signature(self) -> list[Any]:
        """How it stands, and whatever else changes when there is something new to push."""

    @abstractmethod
    def _push(self) -> None:
        """Whatever there is, to the tracker."""


class WatchedRun(Watched):
    @property
    def state(self) -> str:
        return Run(self.folder).state

    def _signature(self) -> list[Any]:
        return [self.state, *filter(None, (_changed(self.folder / name) for name in LOOKED_AT))]

    def _push(self) -> None:
        begun = (self.folder / "identity.json").exists()
        self.said = self._tracker.push(Snapshot(self.folder, self._key())) if begun else ""

    def _key(self) -> str:
        """Written before it is used. It goes when the run is started over, with all else that is noted."""
        there = noted(self.folder)
        if "key" not in there:
            write_json(self.folder / NOTE_NAME, there | {"key": uuid4().hex})
        return str(noted(self.folder)["key"])


class WatchedSweep(Watched):
    """starter: the process that has started this one; it may end and leave its number behind for a while."""

    def __init__(self, folder: Path, tracker: Tracker[Any], starter: int | None = None) -> None:
        super().__init__(folder, tracker)
        self._starter = starter

    def read(self) -> sweeps.Sweep | None:
        gone = None if self._starter is None or os.getppid() == self._starter else self._starter
        return sweeps.read(self.folder, gone)

    def _signature(self) -> list[Any]:
        sweep = self.read()
        return ["" if sweep is None else sweep.status, _changed(self.folder / sweeps.NAME)]

    def _push(self) -> None:
        """The sweep, then which run it has there into the folders of its runs: by that change they are pushed again."""
        sweep = self.read()
        if sweep is not None and (parent := self._tracker.push_sweep(sweep)) is not None:
            for run in sweeps.run_folders(self.folder, sweep):
                sweeps.note(run, sweep.name, parent)


def _trouble(error: Exception) -> str:
    return without_passwords(first_line(error))[:160]


def _changed(path: Path) -> list[Any] | None:
    """When a file was written last, and its size; None where there is none."""
    try:
        about = path.stat()
    except FileNotFoundError:
        return None
    return [path.name, about.st_mtime_ns, about.st_size]


# --- later ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Synced:
    """What became of one record."""

    folder: Path
    said: str
    failed: bool = False

    def __str__(self) -> str:
        return f"{self.folder}: {self.said}"


def sync(output_root: Path, tracker: Tracker[Any]) -> Iterator[Synced]:
    """Make a tracker's place equal to every record under ``output_root``: sweeps, then runs, of each of which is told.

    A run that is being trained, or that another process sends, is left alone; a sweep's own trouble alone is told.

    Raises:
        UserError: nothing at all can be sent at present.
    """
    folders = sorted(path.parent for path in output_root.glob("*/*/*/identity.json"))
    if folders:
        tracker.reach()
    for folder in sweeps.folders(output_root):
        sweep = WatchedSweep(folder, tracker)
        if (known := sweep.read()) is not None and known.status != "running" and (synced := _synced(sweep)).failed:
            yield synced
    for folder in folders:
        run = WatchedRun(folder, tracker)
        yield Synced(folder, "is being trained") if run.state == "running" else _synced(run)


def _synced(watched: Watched) -> Synced:
    try:
        if not watched.push(anyway=True):
            return Synced(watched.folder, "another process is sending it")
    except Exception as error:
        return Synced(watched.folder, f"failed: {_trouble(error)}", failed=True)
    finally:
        watched.release()
    return Synced(watched.folder, watched.said or "nothing was missing")
