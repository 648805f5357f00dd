"""What is measured in processes of its own: epochs of the product, several at once on a GPU, commands from their start.

python -m benchmarks.processes csa 1 steps=20 ...     a variant, how many epochs, then the words of ``benchmarks``
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.order import read_order
from benchmarks.table import Row

ROOT = Path(__file__).resolve().parents[1]
READY = "ready"


def environment() -> dict[str, str]:
    """In which a process anywhere finds this csa."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path}


def epochs_at_once(variant: str, words: Sequence[str], number: int, epochs: int) -> list[dict[str, Any]]:
    """So many processes that train so many epochs: all wait for each other, warm, before the first that is measured.

    Of each ``trained``, the images of an epoch, ``ends``, when it began and each of its epochs ended, and ``peak_mb``.
    """
    command = [sys.executable, "-m", "benchmarks.processes", variant, str(epochs), *words]
    children = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(), text=True)
        for _ in range(number)
    ]
    for child in children:
        assert child.stdout is not None
        while child.stdout.readline() not in (f"{READY}\n", ""):
            pass
    for child in children:
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
    answers = [child.communicate()[0] for child in children]
    if any(child.returncode for child in children):
        raise RuntimeError(f"a process ended with status {[child.returncode for child in children]}: {command}")
    return [json.loads(answer.splitlines()[-1]) for answer in answers]


def main(variant: str, epochs: int, words: Sequence[str]) -> None:
    order = read_order(words)
    from benchmarks.conditions import split_of
    from benchmarks.product import product_epoch
    from csa.training.machine import choose

    config = order.configs[variant]
    split, _ = split_of(config)
    machine = choose(config.runtime, config.protocol)
    measured = product_epoch(config, split, machine, order.steps, wait_for_the_others, epochs)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"trained": measured.trained, "ends": measured.ends, "peak_mb": peak}))


def wait_for_the_others() -> None:
    print(READY, flush=True)
    sys.stdin.readline()


# --- several runs that share one GPU --------------------------------------------------------


NUMBERS = (1, 2, 4, 8)
VARIANT = "csa"
EPOCHS = 60
"""Of each run: seconds, so that those in which all train are most of them."""


class AtOnce:
    """Images a second of all runs together, while all of them train."""

    rows = tuple(
        Row(f"at_once_{number}", f"{VARIANT} runs at once on the GPU: {number}", "images/s", "at_once_1")
        for number in NUMBERS
    )

    def __init__(self, words: Sequence[str]) -> None:
        self._words = words

    def measure(self) -> dict[str, float]:
        return {f"at_once_{number}": self._rate(number) for number in NUMBERS}

    def _rate(self, number: int) -> float:
        return rate_together(epochs_at_once(VARIANT, self._words, number, EPOCHS))


def rate_together(runs: Sequence[dict[str, Any]]) -> float:
    """Images a second of all runs, each from those of its whole epochs in which every run was training.

    Raises:
        RuntimeError: of a run there is no such epoch.
    """
    begin, end = max(run["ends"][0] for run in runs), min(run["ends"][-1] for run in runs)
    rate = 0.0
    for run in runs:
        inside = [moment for moment in run["ends"] if begin <= moment <= end]
        if len(inside) < 2:
            raise RuntimeError(f"{len(runs)} runs at once hardly overlapped: one of them had no whole epoch meanwhile")
        rate += run["trained"] * (len(inside) - 1) / (inside[-1] - inside[0])
    return rate


# --- from a command to its answer -----------------------------------------------------------


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


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
