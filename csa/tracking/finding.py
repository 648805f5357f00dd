"""Where runs are recorded, which of them is meant, and which of two records of one run counts; and removing one.

Run folders come first: they hold everything, checkpoint and logits included. Then exported records;
then MLflow, for what is only there.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from csa.config.faults import Fault, UserError, nearest
from csa.config.identity import DIGITS
from csa.tracking.exported import ExportedRun, exported_paths
from csa.tracking.files import UNREADABLE, read_json
from csa.tracking.lease import Lease
from csa.tracking.run import Run

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from csa.config.schema import TrackingConfig

LATEST = "latest"
EXPECTED = f"a fingerprint or how it begins, or {LATEST}; python -m csa.records lists them"
MOST_CANDIDATES = 5
AT_THE_END = re.compile(rf"-([0-9a-f]{{{DIGITS}}})$")


def runs(output_root: Path) -> Iterator[Run]:
    """Every run below ``output_root`` (``<data set>/<method>/<slug>-<fingerprint>``), by name."""
    for path in sorted(output_root.glob("*/*/*/identity.json")):
        if fingerprint_of(path.parent):
            yield Run(path.parent)


def fingerprint_of(folder: Path) -> str | None:
    """The fingerprint of a run folder: in its identity.json and at the end of its name. None: it is no run folder.

    Where identity.json is damaged, its name alone says it: such a run can still be listed and removed.
    """
    path, named = folder / "identity.json", AT_THE_END.search(folder.name)
    try:
        fingerprint = read_json(path)["fingerprint"]
    except UNREADABLE:
        return named[1] if named and path.is_file() else None
    is_text = isinstance(fingerprint, str) and fingerprint
    return fingerprint if is_text and folder.name.endswith(f"-{fingerprint}") else None


def find_run(output_root: Path, text: str) -> Run:
    """The run whose fingerprint is ``text``, or alone begins with it; the latest.

    Raises:
        UserError: there is none, or there are several; candidates are named.
    """
    if text == LATEST and (folder := latest(output_root)):
        return Run(folder)
    known = [(fingerprint_of(run.folder) or "", run) for run in runs(output_root)]
    nothing = f"there is no such run below {output_root}" if known else f"no run is recorded below {output_root}"
    return _only(text, known, nothing)


def _only(text: str, known: Sequence[tuple[str, Run]], nothing: str) -> Run:
    """The one whose fingerprint begins so; nothing: what is said where there is none."""
    if not text:
        raise UserError(Fault("run", None, "must be given", EXPECTED))
    found = [(fingerprint, run) for fingerprint, run in known if fingerprint.startswith(text)]
    if not found:
        raise UserError(Fault("run", text, nothing, EXPECTED, nearest(text, [fingerprint for fingerprint, _ in known])))
    if len(found) > 1:
        listed = ", ".join(f"{fingerprint} ({run.where})" for fingerprint, run in found[:MOST_CANDIDATES])
        more = f" and {len(found) - MOST_CANDIDATES} more" if len(found) > MOST_CANDIDATES else ""
        raise UserError(Fault("run", text, f"stands for {len(found)} runs", listed + more))
    return found[0][1]


def point_to_latest(output_root: Path, folder: Path) -> None:
    """``<output_root>/latest`` leads to a run from now on: a link, or a file with its path where there can be none."""
    pointer, draft = output_root / LATEST, output_root / f".{LATEST}.{os.getpid()}"
    with contextlib.suppress(OSError):  # the run is no worse without
        try:
            draft.symlink_to(folder.relative_to(output_root), target_is_directory=True)
        except OSError:
            draft.write_text(f"{folder.relative_to(output_root)}\n")
        try:
            draft.replace(pointer)
        finally:
            draft.unlink(missing_ok=True)  # a data set of that name has the place


def latest(output_root: Path) -> Path | None:
    """The folder of the run that ended last, where that is still there."""
    pointer = output_root / LATEST
    try:
        target = output_root / (pointer.readlink() if pointer.is_symlink() else pointer.read_text().strip())
    except OSError:
        return None
    return target if fingerprint_of(target) else None


def find_finished(output_root: Path, text: str) -> Run:
    """As ``find_run``.

    Raises:
        UserError: also where the run is not done, or its configuration, result or model cannot be read.
    """
    run = find_run(output_root, text)
    name, state = run.folder.name, run.state
    if state != "done":
        problem = f"is {state}" + (f" ({run.failure_line})" if state == "failed" else "")
        raise UserError(Fault("run", name, problem, "a finished run; the command that started it continues it"))
    if not run.checkpoint.exists():
        raise UserError(Fault("run", name, "has no checkpoint.pt", "a run with its model"))
    _ = run.config, run.result
    return run


# --- finished runs of every place -----------------------------------------------------------

SOURCES = ("outputs", "reports/records", "sqlite:///mlflow.db")
"""Where runs are looked for when nothing else is said; a place that is not there has none."""


@dataclass
class Found:
    """runs: one of each fingerprint, by fingerprint; left_out: why records do not count; notes: what else to know."""

    runs: list[Run] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, others: Iterable[Run | str]) -> None:
        """Runs that are not there yet, and complaints; of a run that is told twice the first one counts.

        Where their accuracies differ that is noted; on another kind of device they do.
        """
        known = {run.fingerprint: run for run in self.runs}
        for other in others:
            if isinstance(other, str):
                self.left_out.append(other)
            elif other.fingerprint not in known:
                known[other.fingerprint] = other
            elif _outcome(other) != _outcome(taken := known[other.fingerprint]):
                of_device = "" if _device(other) == _device(taken) else f" on another device ({_device(taken)})"
                self.notes.append(
                    f"{other.where} tells of other accuracies than {taken.where}{of_device}, which is taken"
                )
        self.runs = [known[fingerprint] for fingerprint in sorted(known)]


def find(sources: Iterable[str | Path], experiment: str = "csa") -> Found:
    """Runs of every source: a folder of runs or of exported records, or the address of an MLflow store (``...://...``).

    Raises UserError where a store cannot be reached.
    """
    found = Found()
    for source in map(str, sources):
        if "://" not in source:
            folder = Path(source).expanduser()
            found.add(from_folders(folder))
            found.add(from_records(folder))
        else:
            found.add(from_mlflow(source, experiment, {run.fingerprint for run in found.runs}))
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
    from csa.tracking.mlflow.store import MlflowTracking, uri_of

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


def load(fingerprint: str, *sources: str | Path) -> Run:
    """The one finished run whose fingerprint begins so; sources: as of ``csa.runs``.

    Raises UserError where there is none, or there are several.
    """
    known = [(run.fingerprint, run) for run in find(sources or usual_sources()).runs]
    return _only(fingerprint, known, "there is no such finished run")


def usual_sources() -> list[str]:
    """The usual sources, without a store that does not exist."""
    from csa.tracking.mlflow.store import sqlite_file

    return [source for source in SOURCES if (path := sqlite_file(source)) is None or path.exists()]


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
        problems = "; ".join(map(str, error.faults))
        return problems if where in problems else f"{where}: {problems}"
    except OSError as error:
        return f"{where}: cannot be read ({error.strerror}: {error.filename})"


def _device(run: Run) -> str:
    return str(run.result["device"])


def _outcome(run: Run) -> dict[str, float | None]:
    return {head: scores["last"]["all"] for head, scores in run.result["heads"].items()}


# --- removing --------------------------------------------------------------------------------


class NotARunError(Exception):
    """The folder is not, or not really, a run folder below the output folder."""


def remove(run: Run, output_root: Path) -> None:
    """Delete a run's folder while holding its lease, so that it cannot be in training.

    It is renamed first: a removal that is cut off leaves no half of a run that would be continued.

    Raises:
        HeldError: a process is training it. Where the lease is another machine's, it is watched for
            three beats (15 s) before that machine counts as gone.
        NotARunError: no identity.json, or the folder lies elsewhere behind a link.
        OSError: it cannot be deleted.
    """
    folder = run.folder
    if fingerprint_of(folder) is None:
        raise NotARunError(f"{folder} has no identity.json of its own")
    if folder.resolve() != output_root.resolve() / folder.relative_to(output_root):
        raise NotARunError(f"{folder} is a link, or lies behind one; remove {folder.resolve()} by hand")
    doomed = folder.with_name(f".{folder.name}.removed")
    if doomed.exists():
        shutil.rmtree(doomed)
    with Lease(folder):
        folder.rename(doomed)
    shutil.rmtree(doomed)
