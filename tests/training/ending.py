"""``python -m csa.run`` that tells which threads of gloo's its process has after its work, and at its very end.

The first word says how the second of two processes ends early: "SIGKILL 6", by this signal after its sixth step.
"""

from __future__ import annotations

import atexit
import ctypes
import itertools
import os
import signal
import sys
from pathlib import Path


def tell(when: str) -> None:
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    print(f"threads {when}:", sorted(name for name in names if "gloo" in name), flush=True)


def end_early(name: str, count: int) -> None:
    from csa.training import loop

    step, taken = loop.Training._step, itertools.count(1)

    def counted(*given: object) -> None:
        step(*given)
        if next(taken) == count:
            os.kill(os.getpid(), signal.Signals[name])

    loop.Training._step = counted


def main() -> int:
    from csa.entry import hydra_main
    from csa.run import run

    ending = sys.argv.pop(1).split()
    if ending and os.environ["RANK"] == "1":
        end_early(ending[0], int(ending[1]))
    try:
        hydra_main(run)
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        tell("there")
    return 0


if __name__ == "__main__":
    atexit.register(tell, "left")  # first in, last out
    ctypes.pythonapi.Py_Exit(main())  # takes apart all that was imported, also where it was forked
