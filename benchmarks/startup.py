"""From a command to its answer, in fresh processes and fresh folders, and the memory that a run needs."""

from __future__ import annotations

import subprocess
import sys
import time
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from benchmarks.child import environment, epochs_at_once
from benchmarks.table import Row

if TYPE_CHECKING:
    from collections.abc import Sequence

IMPORT = "import_hydra"


class StartUp:
    rows = (
        Row(IMPORT, "python -c 'import hydra'", "s"),
        Row("help", "python -m csa.run --help", "s", IMPORT),
        Row("mistake", "python -m csa.run method=cas", "s", IMPORT),
        Row("default_run", "python -m csa.run", "s"),
        Row("peak_memory", "memory of a csa epoch's process, at most", "MB"),
    )

    def __init__(self, words: Sequence[str], threads: int | None) -> None:
        self._words = words
        self._run = ["-m", "csa.run"]
        self._threads = [] if threads is None else [f"runtime.threads={threads}"]

    def measure(self) -> dict[str, float]:
        (run,) = epochs_at_once("csa", self._words, 1, epochs=1)
        return {
            IMPORT: wall_seconds(["-c", "import hydra"]),
            "help": wall_seconds([*self._run, "--help"]),
            "mistake": wall_seconds([*self._run, "method=cas"], status=2),
            "default_run": wall_seconds([*self._run, *self._threads]),
            "peak_memory": run["peak_mb"],
        }


def wall_seconds(arguments: Sequence[str], status: int = 0) -> float:
    """Of a Python process in an empty folder. Raises RuntimeError where it ends with another status."""
    with TemporaryDirectory() as folder:
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, *arguments], cwd=folder, env=environment(), capture_output=True, text=True, check=False
        )
        took = time.perf_counter() - began
    if done.returncode != status:
        raise RuntimeError(f"python {' '.join(arguments)} ended with status {done.returncode}: {done.stderr[-2000:]}")
    return took
