"""The folder of what is computed once: decoded squares, and hashes of files. Imports no torch."""

from __future__ import annotations

import fcntl
import json
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from csa.config.faults import Fault

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

GIGABYTE = 10**9


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """One process at a time; the operating system lets go when it ends. Raises OSError where files have no locks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(stream, fcntl.LOCK_UN)  # outright: a decoding process may have inherited the file


def room_faults(folder: Path, needed: int) -> list[Fault]:
    """Whether a folder, which need not be there yet, takes files of ``needed`` bytes."""
    try:
        with alone(folder / "room.lock"):
            free = shutil.disk_usage(folder).free
    except OSError as error:
        return [Fault("dataset.cache_dir", folder, f"cannot be written ({error.strerror})", "a folder of your own")]
    if needed <= free:
        return []
    problem = f"needs {needed / GIGABYTE:,.1f} GB of disk, and {free / GIGABYTE:,.1f} GB are free in {folder}"
    return [Fault("dataset.cache", "memmap", problem, "none, a smaller dataset.resize, or another dataset.cache_dir")]


def read_memory(path: Path) -> dict[str, Any]:
    """What ``write_memory`` has written there; a damaged file is as good as none."""
    try:
        known = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def write_memory(path: Path, known: dict[str, Any], **layout: Any) -> None:
    """Whole or not at all. Of two writers at once the last wins, and what the other knew is computed again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{uuid4().hex}")
    draft.write_text(json.dumps(known, **layout))
    draft.replace(path)
