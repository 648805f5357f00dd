"""What stages are made of: learning rates, as pure functions of the epoch (from 0), and samplers of a method's own."""

from __future__ import annotations

import math
from bisect import bisect_right
from typing import TYPE_CHECKING, Any, Literal

from csa.config.schema import SamplerConfig
from csa.methods.method import Stage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from csa.config.schema import ProtocolConfig


def learning_rate(protocol: ProtocolConfig) -> Callable[[float], float]:
    """The protocol's schedule at its length: warm-up and milestones are scaled from the reference length.

    A warm-up rises to all of ``lr`` in its last epoch, or, from the share ``warmup_from`` of it, in the epoch behind
    it. Within it the epoch may be a fraction (``warmup_each_step``); behind it whole epochs count. A shortened run
    keeps an epoch of warm-up, at half of the rate where that would already be all of it.
    """
    lr, start, warmup = protocol.lr, protocol.warmup_from, protocol.window(protocol.warmup_epochs)
    after = _after_warm_up(protocol)

    def rate(epoch: float) -> float:
        if epoch >= warmup:
            return after(math.floor(epoch))
        return lr * (epoch + 1) / max(warmup, 2) if start is None else lr * (start + (1 - start) * epoch / warmup)

    return rate


def _after_warm_up(protocol: ProtocolConfig) -> Callable[[float], float]:
    if protocol.schedule == "cosine":
        return cosine(protocol.lr, protocol.epochs)
    if protocol.schedule == "constant":
        return lambda _: protocol.lr
    milestones = [protocol.scaled(milestone) for milestone in protocol.milestones]  # ascending, each with its factor
    return lambda epoch: protocol.lr * (1.0, *protocol.factors)[bisect_right(milestones, epoch)]


def cosine(lr: float, epochs: float) -> Callable[[float], float]:
    """From ``lr`` in epoch 0 towards 0, which it would reach in epoch ``epochs``."""
    return lambda epoch: 0.5 * lr * (1 + math.cos(math.pi * epoch / epochs))


def training_stage(protocol: ProtocolConfig, shared: Mapping[str, Any] | None = None) -> Stage:
    """The stage that most methods consist of: as long as the protocol says, at its learning rate."""
    return Stage("train", protocol.epochs, learning_rate(protocol), shared, protocol.warmup_each_step)


# --- samplers ----------------------------------------------------------------------------------


UNIFORM = SamplerConfig(name="uniform", rule="shuffle", q=1.0, images_per_visit=None, draws="images")
"""Every training image once an epoch; equal to conf/sampler/uniform.yaml."""


def class_aware(images_per_visit: int, draws: Literal["images", "cycle"]) -> SamplerConfig:
    """A shuffled cycle of classes, ``images_per_visit`` consecutive images of each."""
    return SamplerConfig(name="class_aware", rule="class_aware", q=None, images_per_visit=images_per_visit, draws=draws)


def class_balanced(draws: Literal["images", "cycle"]) -> SamplerConfig:
    """Every class equally often, with replacement."""
    return SamplerConfig(name="class_balanced", rule="power", q=0.0, images_per_visit=None, draws=draws)


def power(q: float) -> SamplerConfig:
    """Class k with a probability proportional to n_k^q, with replacement, N draws."""
    return SamplerConfig(name="power", rule="power", q=q, images_per_visit=None, draws="images")


REVERSED = SamplerConfig(name="reversed", rule="reversed", q=-1.0, images_per_visit=None, draws="images")
"""Class k with a probability proportional to 1 / n_k; equal to conf/sampler/reversed.yaml."""
