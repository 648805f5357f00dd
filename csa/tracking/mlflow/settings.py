"""Where MLflow keeps its runs: the settings, what is wrong with an address, how to look there. Imports no MLflow."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.metadata import entry_points
from pathlib import Path
from urllib.parse import urlsplit

from csa.config.faults import Fault
from csa.config.host import unwritable
from csa.config.schema import TrackingConfig, later

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


def tracking_fault(uri: str | None) -> Fault | None:
    """What shows without asking: a server that is away may be back when it is needed."""
    problem = _problem(uri) if uri else ""
    if not problem:
        return None
    assert uri is not None
    origin = f" (it comes from {VARIABLE})" if os.environ.get(VARIABLE) == uri else ""
    return Fault("tracking.uri", uri, problem + origin, ALLOWED, _meant(uri))


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
        return f"cannot be used ({str(error).splitlines()[0]})"
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
