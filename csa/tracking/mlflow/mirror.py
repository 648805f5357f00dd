"""One run in MLflow, made equal to its record.

What MLflow already has is asked of MLflow, once after each start and after each failure, so that
nothing is sent twice and nothing is left out, wherever sending was cut off.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from csa.config.faults import without_passwords
from csa.tracking.files import read_json, write_json
from csa.tracking.mlflow import artifacts, store

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

    from csa.tracking.mlflow.store import MlflowTracking
    from csa.tracking.snapshot import Snapshot

STATE_NAME = "mlflow.json"
STATUS = {"running": "RUNNING", "interrupted": "KILLED", "failed": "FAILED", "done": "FINISHED"}
# A metric of every epoch: an epoch whose loss MLflow has is there as a whole, for it is sent in one call.
SENTINEL = "loss"
FINAL_SENTINEL = "best_on_test/all"
MOST_METRICS, MOST_PARAMETERS, MOST_TAGS = 800, 100, 90  # of one call; MLflow takes 1,000 items, 100 of them parameters


class StartedOverError(Exception):
    """The record was started over meanwhile; its mirror is another run."""


@dataclass
class Sent:
    """What ``mlflow.json`` says. record: a name of this record that its MLflow run carries as a tag.

    lines: of metrics.jsonl that MLflow has; artifacts: their names; status: MLflow's.
    """

    record: str = field(default_factory=lambda: uuid.uuid4().hex)
    uri: str = ""
    experiment: str = ""
    run_id: str | None = None
    lines: int = 0
    artifacts: list[str] = field(default_factory=list)
    status: str | None = None


@dataclass
class _There:
    """What MLflow has of the run."""

    client: MlflowClient
    run_id: str
    steps: set[int]
    parameters: set[str]
    tags: dict[str, str]
    status: str
    final: bool


class Mirror:
    """One record's run in MLflow."""

    def __init__(self, folder: Path, settings: MlflowTracking) -> None:
        self.folder, self._settings = folder, settings
        self._path = folder / STATE_NAME
        self._there: _There | None = None
        self._written = self._path.exists()
        known = read_json(self._path) if self._written else {}
        self.sent = Sent(**{one.name: known[one.name] for one in fields(Sent) if one.name in known})

    def push(self, now: Snapshot) -> str:
        """Send what MLflow lacks; what was sent, in words.

        Raises whatever MLflow raises; then some of it may have been sent, and the next push sends the rest.
        """
        self._check_same()
        there = self._there if self._there is not None else self._find(now)
        self._there = None
        if there.status == "deleted":
            return "the run was deleted in MLflow, and is left alone"
        epochs = self._send_values(there, now)
        self._send_status(there, now)
        files = self._send_artifacts(there, now) if now.state == "done" else 0
        self._there = there
        return f"sent {epochs} epochs and {files} files" if epochs or files else ""

    def _note(self, **changes: Any) -> None:
        """Change the state, on the disk as well."""
        self._check_same()
        changed = any(getattr(self.sent, name) != value for name, value in changes.items())
        for name, value in changes.items():
            setattr(self.sent, name, value)
        if changed or not self._written:
            write_json(self._path, asdict(self.sent))
            self._written = True

    def _check_same(self) -> None:
        if self._written and not self._path.exists():
            raise StartedOverError(f"{self.folder} was started over")

    # --- finding the run --------------------------------------------------------------------

    def _find(self, now: Snapshot) -> _There:
        """The record's run, made if there is none, and what MLflow has of it."""
        self._note(uri=without_passwords(self._settings.address), experiment=self._settings.experiment)
        client, experiment_id = store.connect(self._settings)
        run = self._noted_run(client) or self._tagged_run(client, experiment_id, now)
        if run is None:
            run = self._create(client, experiment_id, now)
        if run.info.run_id != self.sent.run_id:
            self._note(run_id=run.info.run_id, lines=0, artifacts=[], status=None)
        deleted = run.info.lifecycle_stage == "deleted"
        if not deleted and not (run.inputs and run.inputs.dataset_inputs):
            client.log_inputs(run.info.run_id, [_dataset(now)])
        return _There(
            client=client,
            run_id=run.info.run_id,
            steps=set() if deleted else {point.step for point in client.get_metric_history(run.info.run_id, SENTINEL)},
            parameters=set(run.data.params),
            tags=dict(run.data.tags),
            status="deleted" if deleted else run.info.status,
            final=FINAL_SENTINEL in run.data.metrics,
        )

    def _noted_run(self, client: MlflowClient) -> Run | None:
        from mlflow.exceptions import MlflowException

        if self.sent.run_id is None:
            return None
        try:
            return client.get_run(self.sent.run_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None  # another store, or a new one
            raise

    def _tagged_run(self, client: MlflowClient, experiment_id: str, now: Snapshot) -> Run | None:
        """A run that was made but not noted; those of an earlier start of this folder end on the way."""
        found = client.search_runs([experiment_id], f"tags.`csa.fingerprint` = '{now.fingerprint}'", max_results=1000)
        here = artifacts.tags(now)["csa.folder"]
        for run in found:
            left_running = run.info.status == "RUNNING" and run.data.tags.get("csa.folder") == here
            if left_running and run.data.tags.get("csa.record") != self.sent.record:
                client.set_tag(run.info.run_id, "csa.status", "interrupted")
                client.set_terminated(run.info.run_id, "KILLED")
        return next((run for run in found if run.data.tags.get("csa.record") == self.sent.record), None)

    def _create(self, client: MlflowClient, experiment_id: str, now: Snapshot) -> Run:
        tags = {"csa.record": self.sent.record, **artifacts.tags_at_start(now), **artifacts.tags(now)}
        return client.create_run(experiment_id, start_time=now.began, tags=tags, run_name=now.name)

    # --- sending ----------------------------------------------------------------------------

    def _send_values(self, there: _There, now: Snapshot) -> int:
        """Parameters, tags and metrics; an epoch's metrics in one call. How many epochs were sent."""
        from mlflow.entities import Param, RunTag

        wanted = artifacts.tags(now)
        tags = [RunTag(key, value) for key, value in wanted.items() if there.tags.get(key) != value]
        # A parameter cannot change once it is there; one that is resumed with other threads keeps its first.
        known = now.parameters.items()
        parameters = [Param(key, value) for key, value in known if key not in there.parameters]
        for start in range(0, len(parameters), MOST_PARAMETERS):
            there.client.log_batch(there.run_id, params=parameters[start : start + MOST_PARAMETERS])
        for start in range(0, len(tags), MOST_TAGS):
            there.client.log_batch(there.run_id, tags=tags[start : start + MOST_TAGS])
        there.tags |= wanted
        there.parameters |= {parameter.key for parameter in parameters}
        already = len(there.steps)
        for batch in _batches(_missing(there, now)):
            there.client.log_batch(there.run_id, metrics=[point for points in batch.values() for point in points])
            there.steps |= batch.keys()
            self._note(lines=len(there.steps))
        if now.state == "done" and not there.final:
            metrics = _points(now.final_metrics(), now.ended, max(len(now.lines) - 1, 0))
            there.client.log_batch(there.run_id, metrics=metrics)
            there.final = True
        return len(there.steps) - already

    def _send_status(self, there: _There, now: Snapshot) -> None:
        status = STATUS[now.state]
        if there.status != status:
            if status == "RUNNING":
                there.client.update_run(there.run_id, status)
            else:
                there.client.set_terminated(there.run_id, status, now.ended)
            there.status = status
        self._note(status=status, lines=len(there.steps))

    def _send_artifacts(self, there: _There, now: Snapshot) -> int:
        """Each as it is noted; one that was sent but not noted is sent again under the same name. How many were."""
        already = len(self.sent.artifacts)
        for name, send in artifacts.of(now, there.client, there.run_id, self._settings):
            if name not in self.sent.artifacts:
                send()
                self._note(artifacts=[*self.sent.artifacts, name])
        return len(self.sent.artifacts) - already


def _missing(there: _There, now: Snapshot) -> Iterator[tuple[int, list[Metric]]]:
    """Step and points of each epoch that MLflow does not have."""
    for step, (metrics, time) in enumerate(zip(now.epochs(), now.line_times(), strict=True)):
        if step not in there.steps:
            yield step, _points(metrics, time, step)


def _points(values: dict[str, float], time: int, step: int) -> list[Metric]:
    from mlflow.entities import Metric

    return [Metric(name, value, time, step) for name, value in values.items()]


def _batches(epochs: Iterable[tuple[int, list[Metric]]]) -> Iterator[dict[int, list[Metric]]]:
    """Whole epochs, as many as one call takes."""
    batch: dict[int, list[Metric]] = {}
    for step, points in epochs:
        if batch and sum(map(len, batch.values())) + len(points) > MOST_METRICS:
            yield batch
            batch = {}
        batch[step] = points
    if batch:
        yield batch


def _dataset(now: Snapshot) -> Any:
    """The split as MLflow's run list shows it."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    name = now.config["dataset"]["name"]
    source = json.dumps({"source": now.config["dataset"]["source"]})
    return DatasetInput(
        Dataset(name=name, digest=now.split[:36], source_type="local", source=source),
        [InputTag("mlflow.data.context", "training")],
    )
