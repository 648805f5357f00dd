"""What every entry does with a mistake of its user: a plain list, no traceback, nothing half done."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from csa.config.faults import Fault, UserError
from csa.config.processes import started_together

EXIT_FAULTS = 2
EXIT_INTERRUPTED = 130


@contextmanager
def reporting_faults() -> Iterator[None]:
    """Around an entry, or as its decorator: mistakes end in a list and status 2, Ctrl-C in one line and 130."""
    try:
        yield
    except UserError as error:
        if started_together().rank == 0:
            print(fault_list(error.faults), file=sys.stderr)
        raise SystemExit(EXIT_FAULTS) from None
    except KeyboardInterrupt:
        print("csa: interrupted", file=sys.stderr)
        raise SystemExit(EXIT_INTERRUPTED) from None


def answer_help(words: Sequence[str], text: str | None) -> None:
    """End with the entry's description where the command asks for it."""
    if {"-h", "--help"} & set(words):
        print((text or "").strip())
        raise SystemExit(0)


def fault_list(faults: Sequence[Fault], aftermath: str = "nothing was run or written") -> str:
    """A headline and one indented line a fault."""
    headline = f"csa: {len(faults)} fault{'' if len(faults) == 1 else 's'}; {aftermath}"
    return "\n".join([headline, *(f"  {fault}" for fault in faults)])
