"""Losses with their settings: what turns logits and weighted labels into the scalar that is minimised."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor, nn

from csa.methods.losses import (
    class_weighted,
    class_weights,
    ldam_margins,
    log_prior,
    logit_adjusted,
    margin_loss,
    plain,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from csa.config.method_schema import LdamConfig, ReweightedConfig
    from csa.methods.losses import PerImage, Reduction, Targets
    from csa.methods.method import Clock


class Criterion(nn.Module):
    """A loss of one image, summed over weighted labels; from ``start_epoch`` on the classes have weights.

    scale: what the outputs of the network are multiplied by to be logits (LDAM's head gives cosines).
    """

    class_weights: Tensor | None

    def __init__(
        self,
        per_image: PerImage = plain,
        *,
        weights: Tensor | None = None,
        start_epoch: int = 0,
        reduction: Reduction = "mean",
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.per_image, self.start_epoch, self.scale = per_image, start_epoch, scale
        self.reduction: Reduction = reduction
        self.register_buffer("class_weights", weights, persistent=False)

    def phase(self, clock: Clock) -> str:
        """Name of the computation in force: ``plain``, or ``weighted`` by class."""
        return "weighted" if self.weighs(clock) else "plain"

    def weighs(self, clock: Clock) -> bool:
        return self.class_weights is not None and clock.epoch >= self.start_epoch

    def forward(self, logits: Tensor, targets: Targets, clock: Clock) -> Tensor:
        weights = self.class_weights if self.weighs(clock) else None
        return class_weighted(self.per_image, logits, targets, weights, self.reduction)


class WithConstant(nn.Module):
    """A loss of one image that reads a tensor [K], which moves with the network and is not saved."""

    constant: Tensor

    def __init__(
        self, loss: Callable[[Tensor, Tensor, Tensor, float], Tensor], constant: Tensor, setting: float
    ) -> None:
        super().__init__()
        self.loss, self.setting = loss, setting
        self.register_buffer("constant", constant, persistent=False)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return self.loss(logits, labels, self.constant, self.setting)


def deferred_reweighting(config: ReweightedConfig, counts: Sequence[int], per_image: PerImage = plain) -> Criterion:
    """CE-DRW: no weights before ``start_epoch``. config: with its nulls resolved."""
    assert config.start_epoch is not None
    weights = class_weights(config.class_weights, counts, config.beta)
    return Criterion(per_image, weights=weights, start_epoch=config.start_epoch, reduction=config.reduction)


def ldam_drw(config: LdamConfig, counts: Sequence[int]) -> Criterion:
    """LDAM with deferred re-weighting, on the cosines of a normalised head."""
    margins = ldam_margins(counts, config.max_margin)
    criterion = deferred_reweighting(config, counts, WithConstant(margin_loss, margins, config.scale))
    criterion.scale = config.scale
    return criterion


def logit_adjustment(counts: Sequence[int], tau: float, smoothing: float = 0.0) -> Criterion:
    return Criterion(WithConstant(partial(logit_adjusted, smoothing=smoothing), log_prior(counts), tau))
