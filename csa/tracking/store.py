"""The place MLflow keeps its runs: a fresh one is made once, whoever comes first.

MLflow migrates an empty SQLite file through dozens of revisions; processes that do so together
break it. So the file is made under another name, behind a lock, and renamed when it is whole.
"""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from csa.config.address import SQLITE, sqlite_file
from csa.tracking.files import locked

if TYPE_CHECKING:
    from mlflow import MlflowClient


# A server that is away is given up on quickly, and asked again later; MLflow itself would retry for minutes.
PATIENCE = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}
# MLflow obeys these before its arguments; a run belongs where its record says.
IGNORED = ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_TRACKING_URI")

NOTE = (
    "Runs of long-tailed recognition. Of the head that stands for the run, in percent of the test images: `all` is the "
    "share of right ones, `balanced`, `many`, `medium` and `few` are means of class accuracies. `<head>/all` and so on "
    "are those of each head. The step is the running epoch number.\n\n"
    "The view *accuracy* (menu *Views*, or `?viewStateShareKey=accuracy` behind the address of the run list) shows "
    "them beside data set, method and seed."
)
VIEW_NAME = "accuracy"
VIEW_COLUMNS = (
    *(f"metrics.`{name}`" for name in ("all", "balanced", "many", "medium", "few", "best_on_test/all", "ece", "loss")),
    *(f"params.`{name}`" for name in ("dataset.name", "method.name", "delta", "backbone.name", "seed")),
    "tags.`csa.status`",
)


def settle_environment() -> None:
    """Make MLflow in this process impatient, silent, and deaf to the run and store named in the environment."""
    for name, value in PATIENCE.items():
        os.environ.setdefault(name, value)
    for name in IGNORED:
        os.environ.pop(name, None)


def connect(uri: str, experiment: str) -> tuple[MlflowClient, str]:
    """A client of the store at ``uri``, made if need be, and the id of the experiment, made if need be.

    Raises whatever MLflow raises where the store cannot be reached, is locked, or is of another version.
    """
    database = sqlite_file(uri)
    if database is None:
        client = _client(uri)
        return client, _experiment_id(client, experiment, None)
    database.parent.mkdir(parents=True, exist_ok=True)
    with locked(database.with_name(database.name + ".lock")):
        if not database.exists() or database.stat().st_size == 0:
            _make(database)
        client = _client(uri)
        return client, _experiment_id(client, experiment, database.parent.resolve() / "mlruns")


def _make(database: Path) -> None:
    unfinished = database.with_name(database.name + ".new")
    unfinished.unlink(missing_ok=True)
    _client(f"{SQLITE}{unfinished}")
    unfinished.replace(database)


def _client(uri: str) -> MlflowClient:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def _experiment_id(client: MlflowClient, name: str, artifacts: Path | None) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        location = None if artifacts is None else (artifacts / re.sub(r"[^\w.-]", "_", name)).as_uri()
        try:
            return str(client.create_experiment(name, artifact_location=location, tags=_experiment_tags()))
        except MlflowException as error:
            found = client.get_experiment_by_name(name)  # another machine was faster
            if found is None:
                raise error from None
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def _experiment_tags() -> dict[str, Any]:
    """A description, and a saved view of the run list as the page itself would save it."""
    view = {"selectedColumns": VIEW_COLUMNS, "orderByKey": "attributes.start_time", "orderByAsc": False}
    saved = {"name": VIEW_NAME, "createdAt": int(time.time() * 1000), "state": json.dumps(view)}
    return {"mlflow.note.content": NOTE, f"mlflow.sharedViewState.{VIEW_NAME}": json.dumps(saved)}
