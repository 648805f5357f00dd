"""Tiny material for the tests of methods: configurations from the real tree, batches of a few pixels, one step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from composed import config_of, options

from csa.config.schema import Config
from csa.data.batch import Batch
from csa.data.split import Groups, Split
from csa.methods.method import Clock, Method, Step

METHODS = options("method")
COUNTS = (8, 4, 2)


def config_apart(*words: str) -> Config:
    """The words of a backbone are composed apart, once for all methods: nothing that is built here depends on them."""
    apart = [word for word in words if word.startswith("backbone")]
    config = config_of(*(word for word in words if word not in apart))
    return replace(config, backbone=config_of(*apart).backbone) if apart else config


def random_batch(seed: int, size: int = 6, image_shape: tuple[int, int, int] = (1, 8, 8)) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(size, *image_shape, generator=generator)
    return Batch(images, torch.randint(len(COUNTS), (size,), generator=generator))


def small_split(image_shape: tuple[int, int, int] = (1, 8, 8)) -> Split:
    """Random images of three classes, the same in training and test."""
    channels, height, width = image_shape
    labels = np.repeat(np.arange(len(COUNTS)), COUNTS)
    images = np.random.default_rng(0).integers(0, 256, (len(labels), height, width, channels), dtype=np.uint8)
    groups, middle = Groups((0,), (1,), (2,)), (0.5,) * channels
    return Split(
        "tiny", images, labels, images, labels, images[:0], labels[:0], classes=("a", "b", "c"), counts=COUNTS,
        by_rank=groups, by_count=groups, mean=middle, std=middle, hash="",
    )  # fmt: skip


def fill(method: Method) -> None:
    """CSA's bank; while it fills its steps read whether it has enough."""
    if getattr(method, "bank", None) is not None:
        method.bank.known = method.bank.size
        method.bank.count.fill_(method.bank.size)


def clocks(method: Method, stage: int) -> Iterator[Clock]:
    """The first of each phase."""
    epochs = method.stages[stage].epochs
    first: dict[str, Clock] = {}
    for epoch in range(epochs):
        clock = Clock(stage, epoch, epochs)
        first.setdefault(method.phase(clock), clock)
    return iter(first.values())


def optimiser(method: Method, stage: int = 0, **settings: Any) -> torch.optim.SGD:
    return torch.optim.SGD(
        method.parameter_groups(stage), **{"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1} | settings
    )


def whole_step(method: Method, batches: dict[str, Batch], rows: dict[str, torch.Tensor], clock: Clock) -> Step:
    """All of it."""
    measures = method.before_forward(batches, clock)
    step: Step = method(batches, rows, clock)
    return Step(step.loss, measures | step.measures)


def take_step(
    method: Method, clock: Clock, update: torch.optim.Optimizer, seed: int = 0, size: int = 6, **more: Any
) -> Step:
    """One update as the loop makes it, on random batches of every stream."""
    batches = {name: random_batch(seed + 10 * n, size, **more) for n, name in enumerate(method.streams(clock))}
    rows = method.draws(clock, [size], torch.Generator().manual_seed(seed))
    method.train_stage(clock.stage)
    step = whole_step(method, batches, {name: row[0] for name, row in rows.items()}, clock)
    step.loss.backward()
    update.step()
    update.zero_grad(set_to_none=True)
    return step


def copied(method: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in method.state_dict().items()}
