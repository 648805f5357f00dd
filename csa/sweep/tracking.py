"""A sweep's own record, and a watcher that has it and its runs tracked; nothing here waits for a tracker, or fails."""

from __future__ import annotations

import contextlib
import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from csa.sweep.cells import swept_keys
from csa.tracking import sweeps
from csa.tracking.watcher import Watcher

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from csa.config.schema import Config
    from csa.sweep.plan import Plan, PlannedRun
    from csa.tracking.run import State

MOST_OF_A_NAME = 80  # characters


class Tracking:
    """Context manager around the runs of a sweep; does nothing where they are not tracked."""

    def __init__(self, name: str, title: str, config: Config) -> None:
        self._on = config.tracking.target is not None
        self._name = re.sub(r"[^\w .:/-]", "_", name)  # what MLflow takes as part of a tag
        self._record = sweeps.SweepRecord(Path(config.output_root).expanduser(), self._name, title)
        self._watcher = Watcher(config.tracking, self._record.folder)
        self._end: tuple[Any, ...] = ("interrupted", {}, {})
        self.trouble: str | None = None

    def __enter__(self) -> Tracking:
        self.add(())
        self._watcher.expect()
        self._watcher.start()
        return self

    def add(self, runs: Sequence[PlannedRun]) -> None:
        """Runs that belong to the sweep; tracked as soon as they begin."""
        if self._on:
            with contextlib.suppress(OSError):  # the watcher, which cannot write either, says so
                for run in runs:
                    sweeps.note(run.folder, self._name)
                self._record.begin([run.folder for run in runs])

    def end(
        self,
        status: sweeps.Status,
        counts: Mapping[State, int],
        means: Mapping[str, Mapping[str, float]] | None = None,
    ) -> None:
        """Say how the sweep ended, and with which accuracies (``csa.sweep.summary.means``); the last word counts."""
        self._end = (status, counts, means or {})

    def __exit__(self, *_: object) -> None:
        if self._on:
            with contextlib.suppress(OSError):
                self._record.end(*self._end)
            self.trouble = self._watcher.close()


def sweep_name(plan: Plan) -> str:
    """Of a sweep without a name: what it varies; the same for the same cells."""
    cells = [cell for run in plan.runs for cell in run.cells]
    digest = hashlib.sha256(repr([cell.words for cell in cells]).encode()).hexdigest()[:6]
    varied = "-".join(key.replace(".", "_") for key in swept_keys(cells))
    return f"{varied[:MOST_OF_A_NAME]}-{digest}".lstrip("-")


def sweep_title(plan: Plan) -> str:
    """What a sweep without a name is, for the eyes: ``image_folder: method x seed``."""
    keys = swept_keys([cell for run in plan.runs for cell in run.cells])
    datasets = sorted({run.config.dataset.name for run in plan.runs})
    return f"{', '.join(datasets)}: {' x '.join(keys)}"[:MOST_OF_A_NAME].rstrip(" :")
