"""MLflow for a sweep: a parent run, the runs nested in it. Nothing here waits for MLflow or fails with it.

One follower mirrors the folders of all runs, wherever they are trained. Which sweeps a run belongs
to stands in its folder (``sweeps.json``), since a cell may be of several.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from csa.sweep.cells import swept_keys
from csa.tracking.files import read_json, write_json
from csa.tracking.follower import Follower

if TYPE_CHECKING:
    from csa.sweep.plan import Plan, Run
    from csa.sweep.processes import Ending
    from csa.sweep.settings import Settings

SWEEPS_NAME = "sweeps.json"
LOG_NAME = "mlflow.txt"
MODEL = "csa.training.recorded.primary_head"
LOOK_SECONDS = 1.0
MOST_AT_ONCE = 50  # folders told to the follower at a time: its pipe is small
PARENT_SECONDS = 10.0


class Tracking:
    """Context manager around the runs of a sweep; does nothing where they are not tracked."""

    def __init__(self, plan: Plan, settings: Settings) -> None:
        self.trouble: str | None = None
        self._runs = plan.runs
        self._on = bool(plan.runs) and plan.runs[0].config.tracking.mlflow
        self.name = settings.sweep.name or sweep_name(plan)
        self._waiting: list[Run] = []
        self._end = threading.Event()
        self._parent: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Tracking:
        if not self._on:
            return self
        tracking = self._runs[0].config.tracking
        log = Path(self._runs[0].config.output_root).expanduser() / LOG_NAME
        self._follower = Follower(tracking.uri, tracking.experiment, log, MODEL if tracking.model else None)
        self._waiting = [run for run in self._runs if self._note(run, None) or run.state != "done"]
        question = {"uri": tracking.uri, "experiment": tracking.experiment, "name": self.name}
        self._parent = subprocess.Popen(
            [sys.executable, "-m", "csa.sweep.parent_run"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        self._tell(question)
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._follow, self._nest)]
        for thread in self._threads:
            thread.start()
        return self

    def end(self, plan: Plan, endings: dict[str, Ending], *, stopped: bool) -> None:
        """Say how the sweep ended."""
        if not self._on:
            return
        failed = any(ending.how == "failed" for ending in endings.values())
        status = "KILLED" if stopped else "FAILED" if failed else "FINISHED"
        self._tell({"status": status, "counts": plan.counts()})

    def __exit__(self, *_: object) -> None:
        if not self._on:
            return
        self._end.set()
        for thread in self._threads:
            thread.join(PARENT_SECONDS)
        while self._waiting:
            self._follow_some()
            if self._waiting:
                self._end.wait(0)
        assert self._parent is not None
        assert self._parent.stdin is not None
        with contextlib.suppress(OSError):
            self._parent.stdin.close()
        self.trouble = self._follower.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._parent.wait(PARENT_SECONDS)

    # --- the parent run ---------------------------------------------------------------------

    def _tell(self, message: dict[str, Any]) -> None:
        assert self._parent is not None
        assert self._parent.stdin is not None
        with contextlib.suppress(OSError):
            self._parent.stdin.write((json.dumps(message) + "\n").encode())
            self._parent.stdin.flush()

    def _nest(self) -> None:
        """Once MLflow has made the parent run, note it in every folder: the follower passes it on."""
        assert self._parent is not None
        assert self._parent.stdout is not None
        run_id = self._parent.stdout.readline().decode().strip()
        if run_id:
            for run in self._runs:
                with contextlib.suppress(OSError):
                    self._note(run, run_id)

    def _note(self, run: Run, run_id: str | None) -> bool:
        """Note in a run's folder that it belongs to this sweep; whether that is news."""
        path = run.folder / SWEEPS_NAME
        sweeps: list[dict[str, Any]] = []
        with contextlib.suppress(OSError, ValueError):
            sweeps = read_json(path)
        known = next((sweep for sweep in sweeps if sweep["name"] == self.name), None)
        if known is not None and run_id in (None, known["parent_run_id"]):
            return False
        others = [sweep for sweep in sweeps if sweep["name"] != self.name]
        run.folder.mkdir(parents=True, exist_ok=True)
        write_json(path, [*others, {"name": self.name, "parent_run_id": run_id}])
        return True

    # --- its children -----------------------------------------------------------------------

    def _follow(self) -> None:
        while not self._end.wait(LOOK_SECONDS):
            self._follow_some()

    def _follow_some(self) -> None:
        """Have the runs mirrored that have begun."""
        begun = [run for run in self._waiting if (run.folder / "identity.json").exists()][:MOST_AT_ONCE]
        for run in begun:
            self._follower.follow(run.folder)
            self._waiting.remove(run)
        if not begun and self._end.is_set():
            self._waiting.clear()


def sweep_name(plan: Plan) -> str:
    """Of a sweep without a name: what it varies; the same for the same cells."""
    cells = [cell for run in plan.runs for cell in run.cells]
    digest = hashlib.sha256(repr([cell.words for cell in cells]).encode()).hexdigest()[:6]
    return "-".join([*(key.replace(".", "_") for key in swept_keys(cells)), digest])
