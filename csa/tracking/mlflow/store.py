"""A store of MLflow: what an address is, and what is wrong with one; made once, whoever comes first; asked for what it
has of ours. MLflow is imported where a store is reached, and not before.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from csa.config.faults import Fault, RecordError, UserError, first_line, missing_extra
from csa.config.host import unwritable
from csa.config.schema import TrackingConfig, later
from csa.tracking.files import locked, write_json

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from mlflow import MlflowClient

SQLITE = "sqlite:///"
DEFAULT_URI = f"{SQLITE}mlflow.db"
SERVERS, DATABASES = ("http", "https"), ("postgresql", "mysql", "mssql")
ALLOWED = "sqlite:///file.db, http://host:port, the address of another database"
VARIABLE = "MLFLOW_TRACKING_URI"  # conf/tracking/mlflow.yaml reads it
FOLDERS_VARIABLE = "MLFLOW_ALLOW_FILE_STORE"
MAGIC = b"SQLite format 3\0"


@dataclass(frozen=True, kw_only=True)
class MlflowTracking(TrackingConfig):
    """uri: None is ``sqlite:///mlflow.db`` in the working directory."""

    uri: str | None
    experiment: str
    model: bool | None = later()
    """Whether the network is logged as a model; None: of a single run, not of a sweep's."""

    def of_a_sweep(self) -> list[str]:
        """Also whether it has a model, for whoever sends the record to MLflow."""
        return super().of_a_sweep() + (["tracking.model=false"] if self.model is None else [])

    @property
    def address(self) -> str:
        return self.uri or DEFAULT_URI


def how_to_browse(uri: str) -> str:
    """What to open, or to type into a shell."""
    return uri if _kind(uri) in SERVERS else f"mlflow ui --backend-store-uri {shlex.quote(uri)}"


def sqlite_file(uri: str) -> Path | None:
    """The file behind a SQLite address; None for any other address."""
    return Path(uri.removeprefix(SQLITE).partition("?")[0]) if uri.startswith(SQLITE) else None


def address_faults(uri: str | None) -> list[Fault]:
    """What shows without asking: a server that is away may be back when it is needed."""
    if not uri or not (problem := _problem(uri)):
        return []
    origin = f" (it comes from {VARIABLE})" if os.environ.get(VARIABLE) == uri else ""
    return [Fault("tracking.uri", uri, problem + origin, ALLOWED, _meant(uri))]


def _kind(uri: str) -> str:
    """``postgresql`` of ``postgresql+psycopg://...``; nothing of what is no address."""
    scheme, separator, _ = uri.partition("://")
    return scheme.partition("+")[0].lower() if separator else ""


def _problem(uri: str) -> str:
    kind = _kind(uri)
    if kind == "sqlite":
        return _problem_of_file(uri)
    if kind in SERVERS:
        return "" if _names_a_server(uri) else "names no server"
    if kind in DATABASES:
        return _problem_of_driver(uri)
    if kind in ("", "file") and not uri.startswith("databricks"):
        allowed = os.environ.get(FOLDERS_VARIABLE, "").lower() in ("true", "1")
        return "" if allowed else f"MLflow keeps runs in no folder or plain file (but for {FOLDERS_VARIABLE}=true)"
    plugins = (plugin.name for plugin in entry_points(group="mlflow.tracking_store"))
    return "" if kind.startswith("databricks") or kind in (*plugins, "") else f"MLflow knows no {kind}://"


def _problem_of_file(uri: str) -> str:
    path = sqlite_file(uri)
    if path is None or path.name in ("", ":memory:"):
        return "names no file"
    try:
        if not path.exists():
            return unwritable(path.absolute().parent)
        with path.open("rb") as stream:
            start = stream.read(len(MAGIC))
    except OSError as error:
        return f"cannot be used ({error.strerror})"
    if start not in (b"", MAGIC):
        return "is no database"
    return "" if os.access(path, os.W_OK) else "cannot be written to"


def _problem_of_driver(uri: str) -> str:
    """Such a database needs a package that csa does not bring."""
    from sqlalchemy import make_url
    from sqlalchemy.exc import SQLAlchemyError

    try:
        make_url(uri).get_dialect().import_dbapi()
    except (SQLAlchemyError, ImportError, ValueError) as error:
        return f"cannot be used ({first_line(error)})"
    return ""


def _names_a_server(uri: str) -> bool:
    try:
        return bool(urlsplit(uri).hostname) and urlsplit(uri).port != 0
    except ValueError:  # a port that is no number
        return False


def _meant(uri: str) -> str:
    """The address that was probably meant by one that is none."""
    kind, rest = _kind(uri), uri.partition("://")[2]
    if kind == "sqlite":
        return "" if rest.startswith("/") else f"{SQLITE}{rest}"
    if not kind:
        return f"{SQLITE}{uri.removeprefix('sqlite:')}"
    near = get_close_matches(kind, [*SERVERS, *DATABASES, "sqlite"], n=1)
    return f"{near[0]}://{rest}" if near and near[0] != kind else ""


# --- making one -----------------------------------------------------------------------------

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


def connect(settings: MlflowTracking) -> tuple[MlflowClient, str]:
    """A client of the store, made if need be, and the id of the experiment, made if need be.

    Raises whatever MLflow raises where the store cannot be reached, is locked, or is of another version.
    """
    settle_environment()
    uri, experiment = settings.address, settings.experiment
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
    """Under another name, behind a lock, and renamed when it is whole.

    MLflow migrates an empty SQLite file through dozens of revisions; processes that do so together break it.
    """
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


# --- what it has ----------------------------------------------------------------------------

FILES = ("config.yaml", "result.json", "metrics.jsonl", "test_outputs.npz")
PAGE = 500
_HOLDERS: list[tempfile.TemporaryDirectory[str]] = []


def uri_of(tracking: TrackingConfig) -> str | None:
    """The store to ask: the one that is named, or the default one where it exists; None: there is none."""
    if not isinstance(tracking, MlflowTracking) or (tracking.target is None and tracking.uri is None):
        return None
    database = sqlite_file(tracking.address)
    return None if tracking.uri is None and database is not None and not database.exists() else tracking.address


@contextmanager
def reaching(uri: str) -> Iterator[None]:
    """Whatever MLflow raises, which is what its stores happen to, as a UserError."""
    try:
        yield
    except Exception as error:
        reason = missing_extra(error) or first_line(error)
        raise UserError(Fault("tracking.uri", uri, f"cannot be reached: {reason}")) from error


def run_ids(uri: str, experiment: str) -> tuple[MlflowClient, dict[str, str]]:
    """A client and the newest finished MLflow run of each fingerprint.

    Raises:
        UserError: the store cannot be reached, or there is no database file.
    """
    settle_environment()
    with reaching(uri):
        database = sqlite_file(uri)
        if database is not None and not database.exists():
            raise FileNotFoundError(f"there is no file {database}")
        client = _client(uri)
        there = client.get_experiment_by_name(experiment)
        found: dict[str, str] = {}
        token = None
        while there is not None:
            page = client.search_runs(
                [there.experiment_id],
                "tags.`csa.status` = 'done'",
                max_results=PAGE,
                page_token=token,
                order_by=["attributes.start_time DESC"],
            )
            for run in page:
                found.setdefault(run.data.tags["csa.fingerprint"], run.info.run_id)
            token = page.token
            if not token:
                break
        return client, found


def finished(uri: str, experiment: str, known: Collection[str]) -> Iterator[tuple[str, Callable[[], Path]]]:
    """Finished runs with a fingerprint that is not ``known``: which, and what downloads it as a run folder.

    The folders live as long as this process. Raises UserError as ``run_ids``; a download raises also RecordError, where
    the configuration that MLflow keeps gives another fingerprint.
    """
    client, found = run_ids(uri, experiment)
    for fingerprint, run_id in sorted(found.items()):
        if fingerprint not in known:
            yield f"MLflow run {run_id}", partial(_download, client, run_id)


def _download(client: MlflowClient, run_id: str) -> Path:
    holder = tempfile.TemporaryDirectory(prefix="csa-mlflow-")
    _HOLDERS.append(holder)
    folder = Path(holder.name)
    for name in FILES:
        client.download_artifacts(run_id, name, str(folder))
    _write_identity(folder)
    return folder


def _write_identity(folder: Path) -> None:
    """MLflow keeps the configuration; the identity follows from it and must have the recorded fingerprint."""
    from csa.config.identity import fingerprint, identity
    from csa.config.recorded import read_recorded
    from csa.tracking.run import Run

    run = Run(folder)
    _, result = run.config, run.result
    who = identity(read_recorded(folder / "config.yaml"), result["split"]["hash"])
    if fingerprint(who) != result["fingerprint"]:
        raise RecordError(folder / "config.yaml", "gives another fingerprint now: made by another version")
    write_json(folder / "identity.json", {"fingerprint": result["fingerprint"], "identity": who})
