"""The product's own epochs: its loop, loader, draws, optimiser, evaluation and a record that is thrown away."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.table import Row
from csa.console import PlainConsole
from csa.data.loader import ResidentLoader
from csa.methods.method import build_method
from csa.sweep.calibration import ShortLoader, rehearsal
from csa.training.evaluation import EVALUATION_BATCH
from csa.training.monitoring import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

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
