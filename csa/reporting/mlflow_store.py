"""Runs of which only MLflow knows, back from the files that it keeps of them; and figures beside the runs there."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from csa.config.address import DEFAULT_URI, sqlite_file
from csa.config.faults import Fault, RecordError, UserError
from csa.reporting.run import from_folder
from csa.reporting.sources import attempt
from csa.tracking import store
from csa.tracking.files import write_json
from csa.tracking.record import Record

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from mlflow import MlflowClient

    from csa.config.schema import TrackingConfig
    from csa.reporting.layout import Drawn
    from csa.reporting.run import Run

FILES = ("config.yaml", "result.json", "metrics.jsonl", "test_outputs.npz")
PAGE = 500
FIGURES = "figures"


def uri_of(tracking: TrackingConfig) -> str | None:
    """The store to ask: the one that is named, or the default one where it exists; None: there is none."""
    if not tracking.mlflow and tracking.uri is None:
        return None
    uri = tracking.uri or DEFAULT_URI
    database = sqlite_file(uri)
    return None if tracking.uri is None and database is not None and not database.exists() else uri


def from_mlflow(uri: str, experiment: str, known: Collection[str]) -> Iterator[Run | str]:
    """Finished runs with a fingerprint that is not ``known``; for one that cannot be used, why.

    Raises:
        UserError: the store cannot be reached, or there is no database file.
    """
    try:
        client, found = _search(uri, experiment)
    except Exception as error:  # MLflow raises what its stores happen to
        raise unreachable(uri, error) from error
    for fingerprint, run_id in sorted(found.items()):
        if fingerprint not in known:
            where = f"MLflow run {run_id}"
            yield attempt(where, lambda run_id=run_id, where=where: _download(client, run_id, where))  # type: ignore[misc]


def unreachable(uri: str, error: Exception) -> UserError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return UserError(Fault("tracking.uri", uri, f"cannot be reached: {reason}"))


def run_ids(uri: str, experiment: str) -> tuple[MlflowClient, dict[str, str]]:
    """A client and the newest finished MLflow run of each fingerprint. Raises UserError as ``from_mlflow``."""
    try:
        return _search(uri, experiment)
    except Exception as error:
        raise unreachable(uri, error) from error


def send(figures: Sequence[Drawn], uri: str, experiment: str) -> int:
    """Log each figure to every run it shows that MLflow has; the number of such runs.

    Raises:
        UserError: the store cannot be reached.
    """
    client, known = run_ids(uri, experiment)
    reached = set()
    with tempfile.TemporaryDirectory(prefix="csa-figures-") as folder:
        for drawn in figures:
            there = sorted(set(drawn.fingerprints) & known.keys())
            for ending, content in drawn.files.items() if there else ():
                path = Path(folder) / f"{drawn.name}.{ending}"
                path.write_bytes(content)
                for fingerprint in there:
                    try:
                        client.log_artifact(known[fingerprint], str(path), FIGURES)
                    except Exception as error:  # MLflow raises what its stores happen to
                        raise unreachable(uri, error) from error
            reached.update(there)
    return len(reached)


def _search(uri: str, experiment: str) -> tuple[MlflowClient, dict[str, str]]:
    store.settle_environment()
    from mlflow import MlflowClient

    database = sqlite_file(uri)
    if database is not None and not database.exists():
        raise FileNotFoundError(f"there is no file {database}")
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
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


def _download(client: MlflowClient, run_id: str, where: str) -> Run:
    """Its files in a temporary folder that lives as long as this process."""
    holder = tempfile.TemporaryDirectory(prefix="csa-mlflow-")
    folder = Path(holder.name)
    for name in FILES:
        client.download_artifacts(run_id, name, str(folder))
    _write_identity(folder)
    run = from_folder(folder, "mlflow", where)
    _HOLDERS.append(holder)
    return run


_HOLDERS: list[tempfile.TemporaryDirectory[str]] = []


def _write_identity(folder: Path) -> None:
    """MLflow keeps the configuration; the identity follows from it and must have the recorded fingerprint."""
    from csa.config.identity import fingerprint, identity
    from csa.config.recorded import read_recorded

    record = Record(folder)
    record.config()
    result = record.result()
    who = identity(read_recorded(folder / "config.yaml"), result["split"]["hash"])
    if fingerprint(who) != result["fingerprint"]:
        raise RecordError(folder / "config.yaml", "gives another fingerprint now: made by another version")
    write_json(folder / "identity.json", {"fingerprint": result["fingerprint"], "identity": who})
