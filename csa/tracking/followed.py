"""What a follower tells MLflow, again and again until MLflow has it: runs, and the sweep that they belong to."""

from __future__ import annotations

import contextlib
import re
import sys
import time
import uuid
from abc import ABC, abstractmethod
from typing import IO, TYPE_CHECKING, Any

from csa.tracking import sweeps
from csa.tracking.contents import LONGEST_NOTE
from csa.tracking.files import try_lock
from csa.tracking.mirror import MOST_METRICS, Mirror, StartedOverError
from csa.tracking.record import Record
from csa.tracking.store import connect

if TYPE_CHECKING:
    from pathlib import Path

    from mlflow import MlflowClient

LOOK_SECONDS = 2.0
LOCK_NAME = "mlflow.lock"
LOOKED_AT = ("identity.json", "metrics.jsonl", "result.json", "failure.json", sweeps.NAME)
NOT_OF_A_METRIC = re.compile(r"[^\w .:/-]")
MEANS = "means.json"
PARENT_TAG, START_TAG = "csa.sweep.parent", "csa.sweep.start"


class Insistent(ABC):
    """Something to be told to MLflow; whatever MLflow raises, it is tried again, later each time."""

    name: str

    def __init__(self) -> None:
        self._failures = 0
        self.due = 0.0

    def look(self, longest_pause: float) -> bool:
        """Tell what is new, unless it is too early for another try; whether nothing is left to tell for now."""
        if time.monotonic() < self.due:
            return False
        try:
            told = self._tell()
        except Exception as error:
            self._failures += 1
            self._pause(LOOK_SECONDS * 2**self._failures, longest_pause)
            said = f"{self.name}: {type(error).__name__}: {error}"
            print(time.strftime("%H:%M:%S"), said, file=sys.stderr, flush=True)
            self._keep(error)
            return False
        self._failures = 0
        if not told:
            self._pause(LOOK_SECONDS, longest_pause)
        return told

    def _pause(self, seconds: float, longest: float) -> None:
        self.due = time.monotonic() + min(seconds, longest)

    @abstractmethod
    def _tell(self) -> bool:
        """Whether everything is told."""

    @abstractmethod
    def _keep(self, error: Exception) -> None:
        """Why it failed, for whoever asks."""


class FollowedRun(Insistent):
    """One folder. One process writes its mirror at a time: another may still be finishing an earlier start."""

    def __init__(self, folder: Path, uri: str, experiment: str, model: str | None) -> None:
        super().__init__()
        self.folder, self.name = folder, str(folder)
        self._uri, self._experiment, self._model = uri, experiment, model
        self._mirror: Mirror | None = None
        self._lock: IO[str] | None = None
        self._pushed: tuple[Any, ...] | None = None

    @property
    def state(self) -> str:
        return Record(self.folder).state

    @property
    def ended(self) -> bool:
        """Whether MLflow has the end of the run, not only what there was when a slow push began."""
        return self._pushed is not None and self._pushed[0] in ("done", "failed")

    def release(self) -> None:
        if self._lock is not None:
            self._lock.close()
        self._lock = self._mirror = None

    def _tell(self) -> bool:
        present = self._signature()
        if present == self._pushed:
            return True
        if not self._has_lock():
            return False
        assert self._mirror is not None
        self._mirror.push()
        self._pushed = present
        return True

    def _signature(self) -> tuple[Any, ...]:
        """Changes whenever the folder has something new to push."""
        found: list[Any] = [self.state]
        for name in LOOKED_AT:
            with contextlib.suppress(FileNotFoundError):
                about = (self.folder / name).stat()
                found.append((name, about.st_mtime_ns, about.st_size))
        return tuple(found)

    def _has_lock(self) -> bool:
        if self._lock is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = try_lock(self.folder / LOCK_NAME)
            if self._lock is not None:
                self._mirror = Mirror(self.folder, self._uri, self._experiment, self._model)
        return self._lock is not None

    def _keep(self, error: Exception) -> None:
        if isinstance(error, StartedOverError):
            self.release()
        if self._mirror is not None:
            with contextlib.suppress(Exception):
                self._mirror.note_trouble(error)


class FollowedSweep(Insistent):
    """The sweep's own run in MLflow, the parent of its runs': found again where it was started before."""

    def __init__(self, name: str, title: str, uri: str, experiment: str) -> None:
        super().__init__()
        self.name, self._title, self._uri, self._experiment = name, title, uri, experiment
        self.run_id: str | None = None
        self.end: dict[str, Any] | None = None  # status, counts and means, as far as it is known how it ended
        self.is_over = self._closed = False
        self._start = uuid.uuid4().hex  # names this start of the sweep
        self._client: MlflowClient

    def _tell(self) -> bool:
        if self.run_id is None:
            self._client, self.run_id = self._opened()
        if self.is_over and not self._closed:
            self._close(self.run_id)
            self._closed = True
        return True

    def _keep(self, error: Exception) -> None:
        pass  # the log has it

    def _opened(self) -> tuple[MlflowClient, str]:
        client, experiment_id = connect(self._uri, self._experiment)
        found = client.search_runs([experiment_id], f"tags.`{PARENT_TAG}` = '{self.name}'", max_results=1)
        if found:
            run_id = str(found[0].info.run_id)
            client.set_tag(run_id, START_TAG, self._start)
            client.update_run(run_id, "RUNNING")
            return client, run_id
        tags = {PARENT_TAG: self.name, START_TAG: self._start}
        tags |= {"mlflow.source.name": "csa", "mlflow.source.type": "LOCAL"}
        return client, str(client.create_run(experiment_id, tags=tags, run_name=self._title).info.run_id)

    def _close(self, run_id: str) -> None:
        """Unless the sweep has been started again; one that does not say how it ended was killed."""
        if self._client.get_run(run_id).data.tags.get(START_TAG) != self._start:
            return
        for state, count in (self.end or {"counts": {}})["counts"].items():
            self._client.set_tag(run_id, f"csa.runs.{state}", str(count))
        if self.end and self.end["means"]:
            _log_means(self._client, run_id, self.end["means"])
        self._client.set_terminated(run_id, self.end["status"] if self.end else "KILLED")


def _log_means(client: MlflowClient, run_id: str, means: dict[str, dict[str, float]]) -> None:
    """Of each cell its accuracies as metrics (``crt/all``), and all of them as a table and in the run's description."""
    from mlflow.entities import Metric

    now = int(1000 * time.time())
    groups = list(dict.fromkeys(group for one in means.values() for group in one))
    rows = {name: {group: round(one[group], 2) for group in groups if group in one} for name, one in means.items()}
    metrics = [
        Metric(f"{NOT_OF_A_METRIC.sub('_', name)}/{group}", value, now, 0)
        for name, one in rows.items()
        for group, value in one.items()
    ]
    for start in range(0, len(metrics), MOST_METRICS):
        client.log_batch(run_id, metrics=metrics[start : start + MOST_METRICS])
    if MEANS not in [file.path for file in client.list_artifacts(run_id)]:
        client.log_table(run_id, {"cell": list(rows)}, MEANS)  # which alone makes a table of it; it would add rows
    data = [[name, *(one.get(group) for group in groups)] for name, one in rows.items()]
    client.log_dict(run_id, {"columns": ["cell", *groups], "data": data}, MEANS)
    head = f"| cell | {' | '.join(groups)} |\n| --- |{' ---: |' * len(groups)}\n"
    lines = [f"| {name} | {' | '.join(str(one.get(group, '-')) for group in groups)} |" for name, one in rows.items()]
    told = "Test accuracy in %, last epoch, mean over seeds.\n\n" + head + "\n".join(lines)
    client.set_tag(run_id, "mlflow.note.content", told[:LONGEST_NOTE])
