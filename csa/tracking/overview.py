"""What a list of runs says of each: state, progress, accuracy, size and age."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from csa.config.faults import RecordError
from csa.tracking import lease
from csa.tracking.finding import fingerprint_of
from csa.tracking.record import Record, State

if TYPE_CHECKING:
    from pathlib import Path

LAST_WRITTEN = ("result.json", "failure.json", "metrics.jsonl", "identity.json")


@dataclass(frozen=True)
class Overview:
    """One recorded run.

    variant: the word that sets it apart from the usual run, such as ``smoke``; mostly empty. accuracy:
    percent, of the primary head at the last epoch; None before the end. bytes: of all its
    files. age_seconds: since it last got further. note: why it failed, who is training it, or which
    of its files is damaged; seed: None where that is identity.json.
    """

    fingerprint: str
    dataset: str
    method: str
    seed: int | None
    variant: str
    folder: str
    state: State
    epochs: int
    accuracy: float | None
    bytes: int
    age_seconds: float
    note: str


def overview(record: Record) -> Overview:
    state, identity, accuracy = record.state, None, None
    try:
        identity = record.who()["identity"]
        accuracy = record.result()["all"] if state == "done" else None
        note = _note(record, state)
    except (RecordError, FileNotFoundError) as error:
        note = str(error)
    return Overview(
        fingerprint=fingerprint_of(record.folder) or "",
        dataset=record.folder.parents[1].name,
        method=record.folder.parents[0].name,
        seed=identity["seed"] if identity else None,
        variant=identity["variant"] if identity else "",
        folder=str(record.folder),
        state=state,
        epochs=_epochs(record),
        accuracy=accuracy,
        bytes=size(record.folder),
        age_seconds=max(0.0, round(time.time() - _last_written(record), 1)),
        note=note,
    )


def size(folder: Path) -> int:
    """Bytes of all files below; files that vanish meanwhile do not count."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size if path.is_file() else 0
    return total


def _note(record: Record, state: State) -> str:
    if state == "running":
        return str(lease.holder(record.folder) or "another process")
    return failure_reason(record) if state == "failed" else ""


def failure_reason(record: Record) -> str:
    """One line: the first of the reason, or of a traceback the last, which is its exception."""
    lines = record.failure().splitlines()
    if not lines:
        return "no reason was given"
    return lines[-1] if lines[0].startswith("Traceback") else lines[0]


def _epochs(record: Record) -> int:
    """Whole lines of metrics.jsonl."""
    path = record.folder / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _last_written(record: Record) -> float:
    paths = (record.folder / name for name in LAST_WRITTEN)
    return max(path.stat().st_mtime for path in paths if path.exists())
