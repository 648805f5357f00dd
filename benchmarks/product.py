"""The product's own epochs: here, in processes of their own, several at once on a GPU; its commands from their start.

An epoch is its loop, loader, draws, optimiser, evaluation and a record that is thrown away.

python -m benchmarks.product csa 1 steps=20 ...     a variant, how many epochs, then the words of ``benchmarks``
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from benchmarks.conditions import split_of
from benchmarks.order import read_order
from benchmarks.table import Row
from csa.console import PlainConsole
from csa.data.loader import ResidentLoader
from csa.methods.method import build_method
from csa.sweep.calibration import ShortLoader, rehearsal
from csa.training.evaluation import EVALUATION_BATCH
from csa.training.machine import choose
from csa.training.monitoring import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from csa.config.schema import Config
    from csa.data.split import Split
    from csa.methods.method import Method
    from csa.training.machine import Machine

MEASURED_EPOCHS = {"cpu": 1, "cuda": 30, "mps": 1}
"""On a GPU an epoch lasts a tenth of a second."""


class Stopwatch(Progress):
    """Notes when each epoch was over, its evaluation, checkpoint and line in the record included.

    Its clock is that of all processes of the machine. warm: called after the first epoch.
    """

    def __init__(self, method: Method, warm: Callable[[], None]) -> None:
        super().__init__(PlainConsole(quiet=True), method.stages, bars=False)
        self._warm = warm
        self.ends: list[float] = []
        self.lines: list[dict[str, Any]] = []

    def end_epoch(self, line: dict[str, Any]) -> None:
        super().end_epoch(line)
        if not self.ends:
            self._warm()
        self.ends.append(time.monotonic())
        self.lines.append(line)


@dataclass(frozen=True)
class ProductEpoch:
    """Seconds of a whole epoch and of a whole evaluation, extrapolated where steps were left out.

    trained: images of a measured epoch, of which each ended at one of ``ends``; the first of these is its beginning.
    """

    trained: int
    ends: list[float]
    images: int
    training_seconds: float
    test_images: int
    evaluation_seconds: float

    @property
    def seconds(self) -> float:
        return self.training_seconds + self.evaluation_seconds


def product_epoch(
    config: Config,
    split: Split,
    machine: Machine,
    steps: int | None,
    warm: Callable[[], None] = lambda: None,
    epochs: int | None = None,
) -> ProductEpoch:
    """Train a fresh network for an epoch of a few steps and then, measured, for some of a few or all steps.

    The median of the measured epochs counts. What an epoch does beside its steps (draws, a checkpoint, the record)
    counts once, however many steps there are. warm: called before the measured ones, of which there are ``epochs``.
    """
    length = 1 + (epochs or MEASURED_EPOCHS[machine.device.type])
    config = replace(config, protocol=replace(config.protocol, epochs=length))
    method = build_method(config, split.image_shape, split.mean, split.std, split.counts)
    loader = ShortLoader(ResidentLoader(split, config.protocol, machine.device, config.seed), steps, steps)

    def warmed() -> None:
        loader.warming = False
        warm()

    watch = Stopwatch(method, warmed)
    with rehearsal(config, method, loader, split, machine, watch) as training:
        training.run()
    trained, images, tests = watch.lines[1]["images"], len(split.train_labels), len(split.test_labels)
    stepping, evaluation = (median(line[key] for line in watch.lines[1:]) for key in ("seconds", "evaluation_seconds"))
    beside = median(end - begin for begin, end in pairwise(watch.ends)) - stepping - evaluation
    tested = tests if steps is None else min(tests, steps * EVALUATION_BATCH)
    return ProductEpoch(
        trained, watch.ends, images, beside + stepping * images / trained, tests, evaluation * tests / tested
    )


class Product:
    """An epoch and an evaluation of every variant."""

    rows = (
        Row("product_ce", "product: training, ce", "images/s", "bare_train"),
        Row("product_csa", "product: training, csa", "images/s", "passes_csa"),
        Row("product_csa_reused", "product: training, csa, pass re-used", "images/s", "passes_csa_reused"),
        Row("evaluation_ce", "product: evaluation, ce", "images/s", "bare_evaluation"),
        Row("evaluation_csa", "product: evaluation, csa (3 heads)", "images/s", "bare_evaluation"),
        Row("epoch_ce", "product: epoch, evaluation, ce", "s"),
        Row("epoch_csa", "product: epoch, evaluation, csa", "s"),
        Row("epoch_csa_reused", "product: epoch, evaluation, csa, re-used", "s"),
    )

    def __init__(self, configs: Mapping[str, Config], split: Split, machine: Machine, steps: int | None) -> None:
        self._configs, self._split, self._machine, self._steps = configs, split, machine, steps

    def measure(self) -> dict[str, float]:
        epochs = {
            variant: product_epoch(config, self._split, self._machine, self._steps)
            for variant, config in self._configs.items()
        }
        return {
            **{f"product_{variant}": epoch.images / epoch.training_seconds for variant, epoch in epochs.items()},
            **{
                f"evaluation_{variant}": epochs[variant].test_images / epochs[variant].evaluation_seconds
                for variant in ("ce", "csa")
            },
            **{f"epoch_{variant}": epoch.seconds for variant, epoch in epochs.items()},
        }


# --- in processes of their own ---------------------------------------------------------------


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
    command = [sys.executable, "-m", "benchmarks.product", variant, str(epochs), *words]
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
