"""The folder of what is computed once: decoded squares, and hashes of what files hold. Imports no torch."""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from csa.config.faults import Fault
from csa.config.host import GIGABYTE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np


@contextmanager
def locked(path: Path) -> Iterator[None]:
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
        with locked(folder / "room.lock"):
            free = shutil.disk_usage(folder).free
    except OSError as error:
        return [Fault("dataset.cache_dir", folder, f"cannot be written ({error.strerror})", "a folder of your own")]
    if needed <= free:
        return []
    problem = f"needs {needed / GIGABYTE:,.1f} GB of disk, and {free / GIGABYTE:,.1f} GB are free in {folder}"
    return [Fault("dataset.cache", "memmap", problem, "none, a smaller dataset.resize, or another dataset.cache_dir")]


def read_cache(path: Path) -> dict[str, Any]:
    """What ``write_cache`` has written there; a damaged file is as good as none."""
    try:
        known = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def write_cache(path: Path, known: dict[str, Any], **layout: Any) -> None:
    """Whole or not at all. Of two writers at once the last wins, and what the other knew is computed again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{uuid4().hex}")
    draft.write_text(json.dumps(known, **layout))
    draft.replace(path)


UNREADABLE = "unreadable"
READERS = 8
SETTLED_NS = 2 * 10**9
"""A file that was changed a moment ago may be changed again within the same tick of the clock."""


def content_hashes(root: Path, names: Sequence[str], stamps: np.ndarray, cache: Path) -> list[str]:
    """SHA-256 (hex) of each file [N], or ``unreadable``.

    Remembered in the folder ``cache`` (where it can be written) for as long as a file's stamp stays the same.
    stamps: int64 [N, 4], see ``ImageFiles``.
    """
    memory = cache / f"content-{hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:12]}.json"
    current = dict(zip(names, stamps.tolist(), strict=True))
    with ExitStack() as held:
        with suppress(OSError):
            held.enter_context(locked(memory.with_suffix(".lock")))
        known = read_cache(memory)  # of each name [hash, *stamp]
        missing = [name for name, stamp in current.items() if _stamp(known.get(name)) != stamp]
        if missing:
            now = time.time_ns()
            fresh = _hashes(root, missing, sum(current[name][0] for name in missing))
            known |= {name: [value, *current[name]] for name, value in zip(missing, fresh, strict=True)}
            with suppress(OSError):
                write_cache(memory, {name: entry for name, entry in known.items() if _settled(entry, now)})
    return [known[name][0] for name in names]


def _stamp(entry: Any) -> list[int] | None:
    return entry[1:] if isinstance(entry, list) else None


def _settled(entry: list[Any], now: int) -> bool:
    value, _, changed, renewed, _ = entry
    return bool(value != UNREADABLE and now - max(changed, renewed) > SETTLED_NS)


def _hashes(root: Path, names: Sequence[str], size: int) -> Iterator[str]:
    from rich.progress import track

    from csa.console import PlainConsole

    console = PlainConsole(stderr=True)
    what = f"reading {len(names):,} files ({size / GIGABYTE:,.1f} GB) once, for their hashes"
    if size > GIGABYTE and not console.is_terminal:
        console.print(what)
    with ThreadPoolExecutor(READERS) as pool:
        found = pool.map(lambda name: _hash(root / name), names)
        yield from track(found, what, len(names), console=console, transient=True, disable=not console.is_terminal)


def _hash(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return UNREADABLE
