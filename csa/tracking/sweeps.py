"""The record of a sweep, from which trackers know it: ``outputs/sweeps/<name>/sweep.json``.

The run folders themselves say which sweeps they belong to (``sweeps.json``), since a cell may be of several.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

from csa.tracking.files import UNREADABLE, locked, read_json, write_json
from csa.tracking.lease import Holder, this_process

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

FOLDER, NAME = "sweeps", "sweep.json"
OF_A_RUN = "sweeps.json"

Status = Literal["running", "interrupted", "failed", "done"]


@dataclass(frozen=True)
class Sweep:
    """One reading of a sweep's record, or what is to be written of it.

    name: by which it is the same sweep when it is started again; title: what it is, for the eyes; start: its last
    one, in nanoseconds since 1970; counts: of its runs by state; means: accuracies of each cell, when it has ended;
    runs: their folders, seen from the output folder; process: that runs it.
    """

    name: str
    title: str
    start: int = field(default_factory=time.time_ns)
    status: Status = "running"
    counts: dict[str, int] = field(default_factory=dict)
    means: dict[str, dict[str, float]] = field(default_factory=dict)
    runs: list[str] = field(default_factory=list)
    process: Holder = field(default_factory=this_process)


class SweepRecord:
    """What the process of a sweep writes of it. Raises OSError where it cannot be written."""

    def __init__(self, output_root: Path, name: str, title: str) -> None:
        self.folder = output_root / FOLDER / quote(name, safe=" ")
        self._root = output_root
        self._own = Sweep(name, title)

    def begin(self, runs: Iterable[Path]) -> None:
        """Add runs; those of earlier starts stay its own."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write(runs)

    def end(self, status: Status, counts: Mapping[Any, int], means: Mapping[str, Mapping[str, float]]) -> None:
        known = {name: dict(one) for name, one in means.items()}
        self._own = replace(self._own, status=status, counts={**counts}, means=known)
        self._write(())

    def _write(self, runs: Iterable[Path]) -> None:
        """Where another process has started the sweep once more meanwhile, how it stands is that one's to say."""
        with locked(self.folder / "sweep.lock"):
            there = read(self.folder)
            known = [] if there is None else there.runs
            known = list(dict.fromkeys([*known, *(os.path.relpath(run, self._root) for run in runs)]))
            latest = self._own if there is None or there.start <= self._own.start else there
            write_json(self.folder / NAME, asdict(replace(latest, runs=known)))


def read(folder: Path, gone: int | None = None) -> Sweep | None:
    """None: there is none, or it is damaged. One whose process does not live any more is interrupted.

    gone: number of a process of this machine that is known to have ended.
    """
    try:
        fields: dict[str, Any] = read_json(folder / NAME)
        sweep = Sweep(**fields | {"process": Holder(**fields["process"])})
    except UNREADABLE:
        return None
    process = sweep.process
    lives = process.pid != gone and process.lives if process.is_here else process.host != this_process().host
    return sweep if lives or sweep.status != "running" else replace(sweep, status="interrupted")


def folders(output_root: Path) -> Iterator[Path]:
    """Of every recorded sweep."""
    return (path.parent for path in sorted(output_root.glob(f"{FOLDER}/*/{NAME}")))


def run_folders(folder: Path, sweep: Sweep) -> list[Path]:
    """Of its runs that have begun."""
    runs = [(folder.parents[1] / run) for run in sweep.runs]
    return [run for run in runs if (run / "identity.json").exists()]


# --- of a run -------------------------------------------------------------------------------


def sweeps_of(folder: Path) -> list[dict[str, str | None]]:
    """Of each its name and, once a tracker has one for it, its run there (``parent_run_id``); damaged: none."""
    with contextlib.suppress(*UNREADABLE):
        return [{"name": one["name"], "parent_run_id": one["parent_run_id"]} for one in read_json(folder / OF_A_RUN)]
    return []


def note(folder: Path, name: str, run_id: str | None = None) -> bool:
    """Note that a run belongs to a sweep; whether that is news.

    Raises:
        OSError: it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with locked((folder / OF_A_RUN).with_suffix(".lock")):  # another sweep of the same cells does the same
        known = sweeps_of(folder)
        own = next((one for one in known if one["name"] == name), None)
        if own is not None and run_id in (None, own["parent_run_id"]):
            return False
        others = [one for one in known if one["name"] != name]
        write_json(folder / OF_A_RUN, [*others, {"name": name, "parent_run_id": run_id}])
        return True
