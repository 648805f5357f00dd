"""Files that are either whole or not there, and locks between processes."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import struct
import time
import tokenize
import zipfile
import zlib
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from uuid import uuid4

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

DRAFT = ".writing"
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
LOCK_SECONDS = 120.0

UNREADABLE = (
    *(OSError, EOFError, ValueError, LookupError, TypeError, ArithmeticError, RuntimeError, MemoryError, SyntaxError),
    *(zipfile.BadZipFile, zlib.error, struct.error, tokenize.TokenError),
)
"""What reading a damaged file raises."""


# --- writing and reading ---------------------------------------------------------------------


def write_bytes(path: Path, *parts: bytes | memoryview, keep: Path | None = None) -> None:
    """Write to a neighbour, force it to the disk, rename; whoever else writes the same file has a neighbour of its own.

    keep: where the file that stood there goes.

    Raises:
        OSError: it cannot be written; what stood there before is untouched.
    """
    draft = path.with_name(f"{path.name}.{uuid4().hex}{DRAFT}")
    try:
        with draft.open("xb") as stream:
            stream.writelines(parts)
            stream.flush()
            os.fsync(stream.fileno())
        if keep is not None and path.exists():
            path.replace(keep)
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        error.filename = error.filename or str(path)  # a full disk does not say where
        raise


def remove_drafts(path: Path) -> None:
    """What killed writers of this file have left; for its only writer, who is not writing it now."""
    for draft in path.parent.glob(f"{path.name}.*{DRAFT}"):
        draft.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def npz(**arrays: np.ndarray) -> bytes:
    """An ``.npz`` file; numpy writes no times into it, so equal arrays give equal bytes."""
    import numpy as np

    buffer = BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def read_json(path: Path) -> Any:
    """Raises one of ``UNREADABLE``, also where a number is not finite: none is written."""
    return parse_json(path.read_text())


def read_lines(path: Path) -> list[Any]:
    """A JSON value a line, but for a last line that was cut in writing. Raises as ``read_json``."""
    return [parse_json(line) for line in path.read_text().split("\n")[:-1]]


def parse_json(text: str | bytes) -> Any:
    """Raises ValueError, also where a number is not finite."""
    return json.loads(text, parse_constant=_refuse_constant)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


def bytes_below(folder: Path) -> int:
    """Of all files; those that vanish meanwhile do not count."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size if path.is_file() else 0
    return total


# --- locks ----------------------------------------------------------------------------------


class NoLocksError(OSError):
    """The file system has no locks (some that are shared between machines)."""


def lock_file(path: Path) -> IO[str] | None:
    """The lock file, locked until it is closed; None where another process has it.

    Raises:
        NoLocksError: nobody can lock it.
    """
    stream = path.open("a")
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        stream.close()
        return None
    except OSError as error:
        stream.close()
        if error.errno in WITHOUT_LOCKS:
            raise NoLocksError(error.errno, error.strerror, str(path)) from error
        raise
    return stream


def try_lock(path: Path) -> IO[str] | None:
    """As ``lock_file``; where there are no locks, as if no other process asked."""
    try:
        return lock_file(path)
    except NoLocksError:
        return path.open("a")


@contextlib.contextmanager
def locked(path: Path, seconds: float = LOCK_SECONDS) -> Iterator[None]:
    """Hold a lock file; the operating system frees it however this process ends.

    Raises:
        TimeoutError: another process holds it for longer than ``seconds``.
    """
    deadline = time.monotonic() + seconds
    while (stream := try_lock(path)) is None:
        if time.monotonic() > deadline:
            raise TimeoutError(f"another process holds {path}")
        time.sleep(0.05)
    with stream:
        yield
