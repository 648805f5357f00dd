"""The rules of M2m (Kim et al. 2020): which images are translated into which class, and how."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

NOISE_NORM = 0.5
TINY = 1e-12
"""Keeps a gradient of 0 from dividing by 0, and a beta of 0 from the logarithm."""


def seed_weights(seed_counts: Tensor, target_counts: Tensor, beta: float) -> Tensor:
    """How suitable an image is as a seed: ``1 - beta^(n_seed - n_target)``, 0 where the seed's class is no larger."""
    gap = (seed_counts - target_counts).clamp_min(0)
    return -torch.expm1(gap * math.log(max(beta, TINY)))


def choose(weights: Tensor, uniform: Tensor) -> Tensor:
    """A column of each row with probability proportional to its weight, [B]; of a row of zeros the last.

    weights: [B, B']; uniform: [B] in [0, 1).
    """
    cumulative = weights.cumsum(1)
    places = torch.searchsorted(cumulative, (uniform * cumulative[:, -1])[:, None], right=True)
    return places[:, 0].clamp_max(weights.shape[1] - 1)


def limited(noise: Tensor, over: Literal["channel", "image"]) -> Tensor:
    """Noise [B, C, H, W] of at most L2 norm 1/2: each channel of the whole batch (as released), or each image."""
    return noise.renorm(2, 1 if over == "channel" else 0, NOISE_NORM)


def translate(images: Tensor, objective: Callable[[Tensor], Tensor], step_size: float, iterations: int) -> Tensor:
    """Descend ``objective`` (images to a sum over them) from ``images`` by steps of one length, within [0, 1].

    No parameter receives a gradient.
    """
    for _ in range(iterations):
        images = images.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(objective(images), images)
        length = gradient.flatten(1).norm(dim=1).clamp_min(TINY)
        images = (images.detach() - step_size * gradient / length.view(-1, 1, 1, 1)).clamp(0, 1)
    return images.detach()


def towards_target(helper: Tensor, model: Tensor, targets: Tensor, seeds: Tensor, seed_weight: float) -> Tensor:
    """The objective: the helper's cross-entropy for the target class, and the model's logit of the seed's class.

    helper, model: logits [B, K] of the two networks; targets, seeds: labels [B]. Summed over the images.
    """
    of_seeds = model.float().gather(1, seeds[:, None]).sum()
    return F.cross_entropy(helper.float(), targets, reduction="sum") + seed_weight * of_seeds
