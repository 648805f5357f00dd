"""MLflow for a sweep: a parent run, the runs nested in it. Nothing here waits for MLflow or fails with it.

One follower mirrors the folders of all runs, wherever they are trained. Which sweeps a run belongs
to stands in its folder (``sweeps.json``), since a cell may be of several.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from csa.sweep.cells import swept_keys
from csa.tracking.files import read_json, write_json
from csa.tracking.follower import Follower
from csa.tracking.mirror import STATE_NAME as MIRROR_NAME

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from csa.config.schema import Config
    from csa.sweep.plan import Plan, Run
    from csa.tracking.record import State

SWEEPS_NAME = "sweeps.json"
LOG_NAME = "mlflow.txt"
MODEL = "csa.training.recorded.primary_head"
LOOK_SECONDS = 1.0
MOST_AT_ONCE = 50  # folders told to the follower at a time: its pipe is small
PARENT_SECONDS = 10.0
MOST_OF_A_NAME = 80  # characters


class Tracking:
    """Context manager around the runs of a sweep; does nothing where they are not tracked."""

    def __init__(self, name: str, title: str, config: Config) -> None:
        self._title = title
        self._name = re.sub(r"[^\w .:/-]", "_", name)  # what MLflow takes as part of a tag
        self._config, self._on = config, config.tracking.mlflow
        self.trouble: str | None = None
        self._runs: list[Run] = []
        self._waiting: list[Run] = []
        self._run_id = ""
        self._end = threading.Event()
        self._noting = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Tracking:
        if not self._on:
            return self
        tracking = self._config.tracking
        log = Path(self._config.output_root).expanduser() / LOG_NAME
        self._follower = Follower(tracking.uri, tracking.experiment, log, MODEL if tracking.model else None)
        question = {"uri": tracking.uri, "experiment": tracking.experiment, "name": self._name,
                    "title": self._title}  # fmt: skip
        self._process = subprocess.Popen(
            [sys.executable, "-m", "csa.sweep.parent_run"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        self._tell(question)
        self._following, self._nesting = (threading.Thread(target=work, daemon=True)
                                          for work in (self._follow, self._nest))  # fmt: skip
        self._following.start()
        self._nesting.start()
        return self

    def add(self, runs: Sequence[Run]) -> None:
        """Runs that belong to the sweep; mirrored as soon as they begin."""
        if self._on:
            known = {run.fingerprint for run in self._runs}
            new = [run for run in runs if run.fingerprint not in known]
            self._runs += new
            self._waiting += [run for run in new if self._note(run, self._run_id or None) or not _is_mirrored(run)]

    def end(
        self,
        status: Literal["FINISHED", "FAILED", "KILLED"],
        counts: Mapping[State, int],
        means: Mapping[str, Mapping[str, float]] | None = None,
    ) -> None:
        """Say how the sweep ended, and with which accuracies (``csa.sweep.summary.means``); the last word counts."""
        if self._on:
            self._tell({"status": status, "counts": counts, "means": means or {}})

    def __exit__(self, *_: object) -> None:
        if not self._on:
            return
        self._nesting.join(PARENT_SECONDS)
        self._end.set()
        self._following.join()
        while self._follow_some():
            time.sleep(LOOK_SECONDS)
        assert self._process is not None
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self.trouble = self._follower.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(PARENT_SECONDS)

    # --- the parent run ---------------------------------------------------------------------

    def _tell(self, message: dict[str, Any]) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.write((json.dumps(message) + "\n").encode())
            self._process.stdin.flush()

    def _nest(self) -> None:
        """Once MLflow has made the parent run, note it in every folder and have it passed on."""
        assert self._process is not None
        assert self._process.stdout is not None
        self._run_id = self._process.stdout.readline().decode().strip()
        if self._run_id:
            for run in list(self._runs):
                with contextlib.suppress(OSError):
                    if self._note(run, self._run_id) and run not in self._waiting:
                        self._waiting.append(run)

    def _note(self, run: Run, run_id: str | None) -> bool:
        """Note in a run's folder that it belongs to this sweep; whether that is news."""
        path = run.folder / SWEEPS_NAME
        with self._noting:
            sweeps: list[dict[str, Any]] = []
            with contextlib.suppress(OSError, ValueError):
                sweeps = read_json(path)
            known = next((sweep for sweep in sweeps if sweep["name"] == self._name), None)
            if known is not None and run_id in (None, known["parent_run_id"]):
                return False
            others = [sweep for sweep in sweeps if sweep["name"] != self._name]
            run.folder.mkdir(parents=True, exist_ok=True)
            write_json(path, [*others, {"name": self._name, "parent_run_id": run_id}])
            return True

    # --- its children -----------------------------------------------------------------------

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
    except (OSError, ValueError, KeyError):
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
