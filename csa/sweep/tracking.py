"""MLflow for a sweep: a parent run, the runs nested in it. Nothing here waits for MLflow or fails with it.

One follower mirrors the folders of all runs, wherever they are trained, and the sweep itself.
"""

from __future__ import annotations

import hashlib
import re
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from csa.sweep.cells import swept_keys
from csa.tracking import sweeps
from csa.tracking.files import read_json
from csa.tracking.follower import Follower
from csa.tracking.mirror import STATE_NAME as MIRROR_NAME

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from csa.config.schema import Config
    from csa.sweep.plan import Plan, Run
    from csa.tracking.record import State

LOG_NAME = "mlflow.txt"
MODEL = "csa.training.recorded.head_network"
LOOK_SECONDS = 1.0
MOST_AT_ONCE = 50  # folders told to the follower at a time: its pipe is small
MOST_OF_A_NAME = 80  # characters


class Tracking:
    """Context manager around the runs of a sweep; does nothing where they are not tracked."""

    def __init__(self, name: str, title: str, config: Config) -> None:
        self._name = re.sub(r"[^\w .:/-]", "_", name)  # what MLflow takes as part of a tag
        self._on = config.tracking.mlflow
        self.trouble: str | None = None
        self._runs: set[str] = set()
        self._waiting: list[Run] = []
        self._end = threading.Event()
        tracking, log = config.tracking, Path(config.output_root).expanduser() / LOG_NAME
        model = MODEL if tracking.model else None
        self._follower = Follower(tracking.uri, tracking.experiment, log, model, (self._name, title))
        self._following = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Tracking:
        if self._on:
            self._follower.start()
            self._following.start()
        return self

    def add(self, runs: Sequence[Run]) -> None:
        """Runs that belong to the sweep; mirrored as soon as they begin."""
        if self._on:
            new = [run for run in runs if run.fingerprint not in self._runs]
            self._runs |= {run.fingerprint for run in new}
            self._waiting += [run for run in new if sweeps.note(run.folder, self._name) or not _is_mirrored(run)]

    def end(
        self,
        status: Literal["FINISHED", "FAILED", "KILLED"],
        counts: Mapping[State, int],
        means: Mapping[str, Mapping[str, float]] | None = None,
    ) -> None:
        """Say how the sweep ended, and with which accuracies (``csa.sweep.summary.means``); the last word counts."""
        if self._on:
            self._follower.end({"status": status, "counts": counts, "means": means or {}})

    def __exit__(self, *_: object) -> None:
        if not self._on:
            return
        self._end.set()
        self._following.join()
        while self._follow_some():
            time.sleep(LOOK_SECONDS)
        self.trouble = self._follower.close()

    def _follow(self) -> None:
        while not self._end.wait(LOOK_SECONDS):
            self._follow_some()

    def _follow_some(self) -> int:
        """Have the runs mirrored that have begun; how many were left for the next time."""
        begun = [run for run in self._waiting if (run.folder / "identity.json").exists()]
        for run in begun[:MOST_AT_ONCE]:
            self._follower.follow(run.folder)
            self._waiting.remove(run)
        return len(begun[MOST_AT_ONCE:])


def _is_mirrored(run: Run) -> bool:
    """Whether MLflow has all of a finished run: a sweep that was killed may have left it behind."""
    if run.state != "done":
        return False
    try:
        sent = read_json(run.folder / MIRROR_NAME)
        last = "model" if run.config.tracking.model else "checkpoint.pt"
        return sent["status"] == "FINISHED" and not sent["trouble"] and last in sent["artifacts"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


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
