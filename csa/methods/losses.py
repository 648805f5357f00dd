"""Losses on weighted labels: one path for plain, mixed and re-weighted targets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor

Targets = list[tuple["Tensor", "Tensor | float"]]
"""Terms (labels [B], weight): the weight is one number, or one an image, [B]. Plain labels are ``[(y, 1.0)]``."""


def cross_entropy(logits: Tensor, targets: Targets, reduction: Literal["none", "mean"] = "mean") -> Tensor:
    """Sum over the terms of weight times cross-entropy, in float32.

    ``none`` gives one loss an image, [B]; ``mean`` divides their sum by B, whatever the weights.
    """
    logits = logits.float()
    losses = sum(weight * F.cross_entropy(logits, labels, reduction="none") for labels, weight in targets)
    assert not isinstance(losses, int), "no targets"
    return losses.mean() if reduction == "mean" else losses
