"""Where runs come from, and which of two records of one run counts.

Run folders come first: they hold everything, checkpoint and logits included. Then exported records;
then MLflow, for what is only there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from csa.config.faults import Fault, UserError
from csa.tracking.exported import ExportedRun, exported_paths
from csa.tracking.finding import EXPECTED, runs
from csa.tracking.run import Run

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from csa.config.schema import TrackingConfig

PLACES = ("outputs", "reports/records", "sqlite:///mlflow.db")
"""Where runs are looked for when nothing else is said; a place that is not there has none."""


@dataclass
class Found:
    """runs: one of each fingerprint, by fingerprint; left_out: why records do not count; notes: what else to know."""

    runs: list[Run] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, others: Iterable[Run | str]) -> None:
        """Runs that are not there yet, and complaints; of a run that is told twice the first one counts.

        On another kind of device the same run has another result. Elsewhere that is noted.
        """
        known = {run.fingerprint: run for run in self.runs}
        for other in others:
            if isinstance(other, str):
                self.left_out.append(other)
            elif other.fingerprint not in known:
                known[other.fingerprint] = other
            elif _outcome(other) != _outcome(taken := known[other.fingerprint]) and _device(other) == _device(taken):
                self.notes.append(f"{other.where} tells of other accuracies than {taken.where}, which is taken")
        self.runs = [known[fingerprint] for fingerprint in sorted(known)]


def find(places: Iterable[str | Path], experiment: str = "csa") -> Found:
    """Runs of every place: a folder of runs or of exported records, or the address of an MLflow store (``...://...``).

    Raises UserError where a store cannot be reached.
    """
    found = Found()
    for place in map(str, places):
        if "://" not in place:
            folder = Path(place).expanduser()
            found.add(from_folders(folder))
            found.add(from_records(folder))
        else:
            found.add(from_mlflow(place, experiment, {run.fingerprint for run in found.runs}))
    return found


def collect(source: str, output_root: Path, records: Path, tracking: TrackingConfig) -> Found:
    """Runs of ``runs``, ``records``, ``mlflow`` or ``all`` of them.

    A store that cannot be reached, or is not there, is a fault (UserError) only where nothing but MLflow was asked for.
    """
    found = Found()
    if source in ("all", "runs"):
        found.add(from_folders(output_root))
    if source in ("all", "records"):
        found.add(from_records(records))
    if source in ("all", "mlflow"):
        _add_mlflow(found, tracking, needed=source == "mlflow")
    return found


def _add_mlflow(found: Found, tracking: TrackingConfig, *, needed: bool) -> None:
    from csa.tracking.mlflow.settings import MlflowTracking
    from csa.tracking.mlflow.store import uri_of

    uri = uri_of(tracking)
    if uri is None or not isinstance(tracking, MlflowTracking):
        if needed:
            raise UserError(Fault("source", "mlflow", "there is no MLflow store here", "tracking.uri=<its address>"))
        return
    try:
        found.add(from_mlflow(uri, tracking.experiment, {run.fingerprint for run in found.runs}))
    except UserError as error:
        if needed:
            raise
        found.notes += [f"{fault}; runs that only MLflow has are missing" for fault in error.faults]


def load(fingerprint: str, *places: str | Path) -> Run:
    """The one finished run whose fingerprint begins so; places: as of ``csa.runs``.

    Raises UserError where there is none, or there are several.
    """
    found = [run for run in find(places or there()).runs if run.fingerprint.startswith(fingerprint)]
    if len(found) != 1 or not fingerprint:
        problem = f"stands for {len(found)} runs" if found else "there is no such finished run"
        raise UserError(Fault("run", fingerprint, problem, ", ".join(run.fingerprint for run in found[:5]) or EXPECTED))
    return found[0]


def there() -> list[str]:
    """The usual places, without a store that does not exist."""
    from csa.tracking.mlflow.settings import sqlite_file

    return [place for place in PLACES if (path := sqlite_file(place)) is None or path.exists()]


def from_folders(output_root: Path) -> Iterator[Run | str]:
    """Every finished run below ``output_root``; for one that cannot be used, why."""
    for run in runs(output_root):
        if run.state == "done":
            yield attempt(run.where, run.checked)


def from_records(folder: Path) -> Iterator[Run | str]:
    """Every exported record below ``folder``; for one that cannot be used, why."""
    for path in exported_paths(folder):
        yield attempt(str(path), ExportedRun(path).checked)


def from_mlflow(uri: str, experiment: str, known: Collection[str]) -> Iterator[Run | str]:
    """Finished runs with a fingerprint that is not ``known``; for one that cannot be used, why.

    Raises:
        UserError: the store cannot be reached, or there is no database file.
    """
    from csa.tracking.mlflow.store import finished

    for where, download in finished(uri, experiment, known):
        yield attempt(where, lambda download=download, where=where: Run(download(), where).checked())  # type: ignore[misc]


def attempt(where: str, read: Callable[[], Run]) -> Run | str:
    """The run, or in one line why it is left out."""
    try:
        return read()
    except UserError as error:
        told = "; ".join(map(str, error.faults))
        return told if where in told else f"{where}: {told}"
    except OSError as error:
        return f"{where}: cannot be read ({error.strerror}: {error.filename})"


def _device(run: Run) -> str:
    return str(run.result["device"])


def _outcome(run: Run) -> dict[str, float | None]:
    return {head: scores["last"]["all"] for head, scores in run.result["heads"].items()}
