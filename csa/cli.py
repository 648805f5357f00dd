"""What every entry does with a mistake of its user: a plain list, no traceback, nothing half done."""

from __future__ import annotations

import errno
import getpass
import io
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from csa.config.faults import Fault, UserError, missing_extra, without_passwords
from csa.config.host import process_world

FAILED_STATUS = 1
EXIT_FAULTS = 2
HELD_STATUS = 3
REQUEUE_STATUS = 75  # EX_TEMPFAIL: a scheduler may start the same command again
CTRL_C_STATUS = 130
SWEEP_PROCESS = "CSA_SWEEP_PROCESS"
"""The environment's name for the sweep that started this process."""
LOOK_SECONDS = 0.5
DISK_TROUBLE = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS),
    *(errno.EACCES, errno.EPERM, errno.EIO, errno.EMFILE, errno.ENFILE),
)

OUT_OF_MEMORY = re.compile("out of memory|can't allocate memory|not enough memory|bad_alloc|Cannot allocate memory")
MEMORY_KEYS = "protocol.batch_size, the size of the images, method.bank_size, runtime.workers or sweep.slots"


@contextmanager
def reporting_faults() -> Iterator[None]:
    """Around an entry, or as its decorator: mistakes end in a list and status 2, Ctrl-C in one line and 130.

    A disk that takes or gives nothing more, and memory that has run out, end in one line and status 1.
    """
    settle_process()
    try:
        yield
    except UserError as error:
        if process_world().rank == 0:
            say(fault_list(error.faults), aside=True)
        raise SystemExit(EXIT_FAULTS) from None
    except KeyboardInterrupt:
        say("csa: interrupted", aside=True)
        raise SystemExit(CTRL_C_STATUS) from None
    except ModuleNotFoundError as error:
        if (fault := missing_extra(error)) is None:
            raise
        say(fault_list([fault], "a package is missing"), aside=True)
        raise SystemExit(EXIT_FAULTS) from None
    except (OSError, MemoryError, RuntimeError) as error:
        if not (trouble := disk_trouble(error) or memory_trouble(error)):
            raise
        say(f"csa: {trouble}", aside=True)
        raise SystemExit(FAILED_STATUS) from None


def disk_trouble(error: Exception, somewhere: object = "") -> str:
    """What ails the disk, in a line; nothing of another kind of error. somewhere: for one that does not say where."""
    if not isinstance(error, OSError) or error.errno not in DISK_TROUBLE:
        return ""
    path = error.filename or somewhere
    return f"{error.strerror}: {path}" if path else str(error.strerror)


def memory_trouble(error: Exception) -> str:
    """That memory has run out and what would take less, in a line; nothing of another kind of error.

    torch tells it of a GPU in a class of its own, and of the processor in words.
    """
    text = str(error)
    known = isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM
    if not known and not (isinstance(error, RuntimeError) and OUT_OF_MEMORY.search(text)):
        return ""
    asked = re.search(r"allocate ([\d.]+ ?[A-Za-z]+)", text)
    return f"out of memory{f' ({asked[1]} were asked for)' if asked else ''}; lower {MEMORY_KEYS}"


def say(text: str, *, aside: bool = False) -> None:
    """To whoever reads the output; aside: on the standard error."""
    from csa.console import PlainConsole

    PlainConsole(stderr=aside).print(text)


def file_faults(to: str) -> list[Fault]:
    """Whether the file that ``to=`` names has a folder to lie in; nothing where none is named."""
    there = Path(to).expanduser().absolute().parent.is_dir()
    return [] if not to or there else [Fault("to", to, "the folder for it does not exist")]


@contextmanager
def writing_to(to: str | Path) -> Iterator[None]:
    """Around writing what ``to=`` names. Raises UserError where it cannot be written."""
    try:
        yield
    except OSError as error:
        raise UserError(Fault("to", to, f"cannot be written ({error.strerror})")) from error


def answer_help(words: Sequence[str], text: str | None) -> None:
    """End with the entry's description where the command asks for it."""
    if {"-h", "--help"} & set(words):
        settle_process()  # whoever reads it may stop reading
        print((text or "").strip())
        raise SystemExit(0)


def fault_list(faults: Sequence[Fault], aftermath: str = "nothing was run or written") -> str:
    """A headline and one indented line a fault."""
    headline = f"csa: {len(faults)} fault{'' if len(faults) == 1 else 's'}; {aftermath}"
    return "\n".join([headline, *(f"  {fault}" for fault in faults)])


# --- the process ----------------------------------------------------------------------------


def settle_process() -> None:
    """Standard streams as ``_Stream``; a user who has no name (a container's bare number) is called by that number."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is getattr(sys, f"__{name}__") and isinstance(stream, io.TextIOWrapper):
            settled = _Stream(stream.buffer, stream.encoding, "backslashreplace", line_buffering=stream.line_buffering)
            setattr(sys, name, settled)
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["LOGNAME"] = str(os.getuid())  # MLflow asks, and torch where it compiles


def queue_again_on_sigterm() -> None:
    """Until training listens: whoever is asked to end before it has begun may be started again."""
    signal.signal(signal.SIGTERM, _stopped)


def _stopped(*_: object) -> NoReturn:
    say("csa: stopped; the same command starts it again", aside=True)
    raise SystemExit(REQUEUE_STATUS)


@contextmanager
def handling(numbers: Iterable[int], handler: Callable[[int, FrameType | None], Any]) -> Iterator[None]:
    """Signals go to ``handler`` for a while (in the main thread, elsewhere they are left alone)."""
    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, handler) for number in numbers} if main else {}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def end_with_sweep() -> bool:
    """A run does not outlive the sweep that started it: SIGTERM to oneself once that is gone. Whether one did."""
    parent = os.environ.pop(SWEEP_PROCESS, None)
    if parent is not None:
        threading.Thread(target=_watch, args=(int(parent),), name="csa-sweep-watch", daemon=True).start()
    return parent is not None


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK_SECONDS)
    while True:  # what comes before training does not listen to signals yet, so it is said again
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(LOOK_SECONDS)


class _Stream(io.TextIOWrapper):
    """Shows no password, takes every character, and outlives its reader (``| head``, a closed terminal)."""

    def write(self, text: str) -> int:
        try:
            super().write(without_passwords(text))
        except OSError as error:
            self._without_reader(error)
        return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self._without_reader(error)

    def _without_reader(self, error: OSError) -> None:
        if error.errno not in (errno.EPIPE, errno.EIO):
            raise error
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)
