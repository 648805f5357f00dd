"""``tracking=mlflow``: a mirror of each record, and for each sweep a parent run, found again by its name."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from csa.tracking.mlflow import store
from csa.tracking.tracker import Tracker, lacking

if TYPE_CHECKING:
    from pathlib import Path

    from mlflow import MlflowClient
    from mlflow.entities import Run

    from csa.config.faults import Fault
    from csa.tracking.mlflow.mirror import Mirror
    from csa.tracking.snapshot import Snapshot
    from csa.tracking.sweeps import Sweep

PARENT_TAG, START_TAG = "csa.sweep.parent", "csa.sweep.start"
NOT_OF_A_METRIC = re.compile(r"[^\w .:/-]")
MEANS = "means.json"


class MlflowTracker(Tracker[store.MlflowTracking]):
    def __init__(self, settings: store.MlflowTracking) -> None:
        super().__init__(settings)
        self._mirrors: dict[Path, Mirror] = {}

    def faults(self) -> list[Fault]:
        return lacking(self.settings, "mlflow") or store.address_faults(self.settings.uri)

    def browse(self, folder: Path) -> str:
        return store.how_to_browse(self.settings.address)

    def reach(self) -> None:
        with store.reaching(self.settings.address):
            store.connect(self.settings)

    def push(self, run: Snapshot) -> str:
        from csa.tracking.mlflow.mirror import Mirror

        if run.folder not in self._mirrors:
            self._mirrors[run.folder] = Mirror(run.folder, self.settings)
        return self._mirrors[run.folder].push(run)

    def close(self, folder: Path) -> None:
        self._mirrors.pop(folder, None)

    def push_sweep(self, sweep: Sweep) -> str:
        """The parent's run id; of a sweep that was started again since, from another folder, nothing is changed."""
        from csa.tracking.mlflow.mirror import STATUS

        client, experiment_id = store.connect(self.settings)
        found = client.search_runs([experiment_id], f"tags.`{PARENT_TAG}` = '{sweep.name}'", max_results=1)
        parent = found[0] if found else _made(client, experiment_id, sweep)
        run_id, status = str(parent.info.run_id), STATUS[sweep.status]
        noted = parent.data.tags.get(START_TAG, "")
        start = int(noted) if noted.isdecimal() else 0
        if start < sweep.start:
            client.update_run(run_id, "RUNNING")
            client.set_tag(run_id, START_TAG, str(sweep.start))
        elif start > sweep.start or parent.info.status == status:
            return run_id
        if sweep.status != "running":
            _end(client, run_id, sweep)
            client.set_terminated(run_id, status)
        return run_id


def _made(client: MlflowClient, experiment_id: str, sweep: Sweep) -> Run:
    tags = {PARENT_TAG: sweep.name, START_TAG: "0", "mlflow.source.name": "csa", "mlflow.source.type": "LOCAL"}
    return client.create_run(experiment_id, tags=tags, run_name=sweep.title)


def _end(client: MlflowClient, run_id: str, sweep: Sweep) -> None:
    """Its runs by state; accuracies of each cell as metrics (``crt/all``), as a table and in the description."""
    from mlflow.entities import Metric

    from csa.tracking.mlflow.artifacts import LONGEST_NOTE
    from csa.tracking.mlflow.mirror import MOST_METRICS

    for state, count in sweep.counts.items():
        client.set_tag(run_id, f"csa.runs.{state}", str(count))
    if not sweep.means:
        return
    now = int(1000 * time.time())
    groups = list(dict.fromkeys(group for one in sweep.means.values() for group in one))
    rows = {
        name: {group: round(one[group], 2) for group in groups if group in one} for name, one in sweep.means.items()
    }
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
    description = "Test accuracy in %, last epoch, mean over seeds.\n\n" + head + "\n".join(lines)
    client.set_tag(run_id, "mlflow.note.content", description[:LONGEST_NOTE])
