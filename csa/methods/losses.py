"""Losses as pure functions: one an image, their sum over weighted labels, and what the sizes of classes say to them.

A ``Criterion`` is such a loss with its settings: what turns logits and weighted labels into the scalar to minimise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from csa.config.method_schema import LdamConfig, ReweightedConfig
    from csa.methods.method import Clock

Targets = list[tuple[Tensor, Tensor | float]]
"""Terms (labels [B], weight): the weight is one number, or one an image, [B]. Plain labels are ``[(y, 1.0)]``."""

PerImage = Callable[[Tensor, Tensor], Tensor]
"""Logits [B, K] and labels [B] to one loss an image, [B]."""

Reduction = Literal["mean", "weighted_mean"]
WeightRule = Literal["effective_number", "inverse_frequency"]


def cross_entropy(
    logits: Tensor, targets: Targets, reduction: Literal["none", "mean"] = "mean", smoothing: float = 0.0
) -> Tensor:
    """Sum over the terms of weight times cross-entropy, in float32.

    ``none`` gives one loss an image, [B]; ``mean`` divides their sum by B, whatever the weights.
    """
    logits = _wide(logits)  # once: gradients of the terms are to meet in float32
    losses = sum(weight * plain(logits, labels, smoothing) for labels, weight in targets)
    assert not isinstance(losses, int), "no targets"
    return losses.mean() if reduction == "mean" else losses


def class_weighted(
    per_image: PerImage, logits: Tensor, targets: Targets, class_weights: Tensor | None, reduction: Reduction
) -> Tensor:
    """Sum over the terms of weight times class weight times loss, then over the batch.

    class_weights: [K], None for ones. ``mean`` divides by B; ``weighted_mean`` by the sum of the class
    weights of each term's own labels, as torch's weighted cross-entropy does (BASELINES 3.1).
    """
    logits = _wide(logits)
    total = logits.new_zeros(())
    for labels, weight in targets:
        losses = weight * per_image(logits, labels)
        if class_weights is not None:
            of_labels = class_weights[labels]
            losses = of_labels * losses
            if reduction == "weighted_mean":
                losses = losses / of_labels.mean()
        total = total + losses.mean()
    return total


# --- one loss an image ----------------------------------------------------------------------


def plain(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """smoothing: share of a label that all classes get, each the same (Szegedy et al. 2016)."""
    return F.cross_entropy(_wide(logits), labels, reduction="none", label_smoothing=smoothing)


def softmax_focal(logits: Tensor, labels: Tensor, gamma: float) -> Tensor:
    """``(1 - p_y)^gamma * -log p_y``, the form of LDAM-DRW and others."""
    return _focused(plain(logits, labels), gamma)


def distorted_softmax_focal(logits: Tensor, labels: Tensor, class_weights: Tensor, gamma: float) -> Tensor:
    """As LDAM-DRW's FocalLoss computes it: the class weight multiplies the cross-entropy before p_y is taken from it.

    That weakens the focus for weights above 1 and strengthens it below. class_weights: [K].
    """
    return _focused(class_weights[labels] * plain(logits, labels), gamma)


def sigmoid_focal(logits: Tensor, labels: Tensor, gamma: float) -> Tensor:
    """Sum of K binary focal losses (Lin et al. 2017), in its stable form: nothing is raised to a power."""
    logits = _wide(logits)
    signed = torch.where(F.one_hot(labels, logits.shape[1]).bool(), logits, -logits)
    return (torch.exp(-gamma * F.softplus(signed)) * F.softplus(-signed)).sum(1)


def margin_loss(cosines: Tensor, labels: Tensor, margins: Tensor, scale: float) -> Tensor:
    """LDAM (Cao et al. 2019): the true class's cosine less its margin, everything times ``scale``, cross-entropy.

    margins: [K].
    """
    cosines = _wide(cosines)
    own = F.one_hot(labels, cosines.shape[1]).bool()
    return plain(scale * torch.where(own, cosines - margins, cosines), labels)


def logit_adjusted(logits: Tensor, labels: Tensor, log_prior: Tensor, tau: float, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of ``z + tau log pi`` (Menon et al. 2021); with tau 1 this is Balanced Softmax.

    log_prior: [K].
    """
    return plain(_wide(logits) + tau * log_prior, labels, smoothing)


def _focused(losses: Tensor, gamma: float) -> Tensor:
    # At a loss of exactly 0 the power of gamma < 1 has no finite slope.
    return (-torch.expm1(-losses)).clamp_min(torch.finfo(losses.dtype).tiny) ** gamma * losses


def _wide(logits: Tensor) -> Tensor:
    """At least float32."""
    return logits if logits.dtype == torch.float64 else logits.float()


# --- of the sizes of classes, [K] float32, computed in float64 ---------------------------------
# A class without images counts as one with a single image: nothing of it is drawn, and everything stays finite.


def class_weights(rule: WeightRule, counts: Sequence[int], beta: float) -> Tensor:
    """Weights that sum to K (BASELINES 3.1). beta: of the effective number alone, in [0, 1).

    effective_number    1 / E_k with E_k = (1 - beta^n_k) / (1 - beta) (Cui et al. 2019)
    inverse_frequency   1 / n_k
    """
    if rule == "inverse_frequency":
        return normalized_weights(counts, 1)
    return _summing_to_k((1 - beta) / (1 - beta ** _sizes(counts)))


def normalized_weights(counts: Sequence[int], exponent: float) -> Tensor:
    """1 / n_k^exponent, scaled to sum to K."""
    return _summing_to_k(_sizes(counts) ** -exponent)


def ldam_margins(counts: Sequence[int], largest: float) -> Tensor:
    """n_k^(-1/4), scaled so that the smallest class has the margin ``largest`` (Cao et al. 2019)."""
    sizes = _sizes(counts)
    return (largest * (sizes.min() / sizes) ** 0.25).float()


def log_prior(counts: Sequence[int]) -> Tensor:
    """log(n_k / N)."""
    sizes = _sizes(counts)
    return (sizes / sizes.sum()).log().float()


def _summing_to_k(weights: Tensor) -> Tensor:
    return (len(weights) * weights / weights.sum()).float()


def _sizes(counts: Sequence[int]) -> Tensor:
    return torch.tensor(counts, dtype=torch.float64).clamp_min(1)


# --- with their settings --------------------------------------------------------------------


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
