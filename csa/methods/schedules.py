"""Learning rates as pure functions of the epoch, counted from 0."""

from __future__ import annotations

import math
from bisect import bisect_right
from functools import partial
from typing import TYPE_CHECKING

from csa.config.switches import scaled

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from csa.config.schema import ProtocolConfig


def learning_rate(protocol: ProtocolConfig) -> Callable[[int], float]:
    """The protocol's schedule at its length: warm-up and milestones are scaled from the reference length."""
    warmup = scaled(protocol.warmup_epochs, protocol)
    if protocol.schedule == "cosine":
        after = cosine(protocol.lr, protocol.epochs)
    elif protocol.schedule == "multistep":
        milestones = [scaled(milestone, protocol) for milestone in protocol.milestones]
        after = partial(_multistep, protocol.lr, milestones, protocol.factors)
    else:
        after = partial(_constant, protocol.lr)
    return partial(_warmed_up, protocol.lr, warmup, after)


def cosine(lr: float, epochs: int) -> Callable[[int], float]:
    """From ``lr`` in epoch 0 towards 0, which it would reach in epoch ``epochs``."""
    return partial(_cosine, lr, epochs)


def _constant(lr: float, _epoch: int) -> float:
    return lr


def _cosine(lr: float, epochs: int, epoch: int) -> float:
    return 0.5 * lr * (1 + math.cos(math.pi * epoch / epochs))


def _multistep(lr: float, milestones: Sequence[int], factors: Sequence[float], epoch: int) -> float:
    """``lr`` times the factor of the last milestone reached; milestones ascend."""
    return lr * (1.0, *factors)[bisect_right(milestones, epoch)]


def _warmed_up(lr: float, warmup: int, after: Callable[[int], float], epoch: int) -> float:
    return lr * (epoch + 1) / warmup if epoch < warmup else after(epoch)
