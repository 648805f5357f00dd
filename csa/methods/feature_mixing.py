"""The rules of FSA (Chu et al. 2020): which classes are tail, which confuse, and features mixed from two images."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


def head_classes(counts: Sequence[int], share: float) -> list[int]:
    """The fewest classes, by descending size, that hold ``share`` of all images."""
    ranked = sorted(range(len(counts)), key=lambda k: -counts[k])
    held = accumulate(counts[k] for k in ranked)
    enough = share * sum(counts) - 1e-9 * sum(counts)  # 0.9 of 10 is 9, whatever a float says
    return ranked[: 1 + sum(total < enough for total in held)]


def confusing_classes(probability_sums: Tensor, most: int) -> Tensor:
    """By class, the ``most`` other classes that its images are mistaken for, most probable first, [K, most].

    probability_sums: [K, K], softmax scores summed over the training images of each class (row).
    """
    others = probability_sums.clone().fill_diagonal_(-1.0)
    return others.argsort(dim=1, descending=True, stable=True)[:, :most]


def scaled_map(class_map: Tensor) -> Tensor:
    """To [0, 1] by each image's minimum and maximum, [B, L]; a flat map points nowhere: 0."""
    lowest, highest = class_map.amin(1, keepdim=True), class_map.amax(1, keepdim=True)
    contrast = highest - lowest
    return torch.where(contrast > 0, (class_map - lowest) / torch.where(contrast > 0, contrast, 1.0), 0.0)


def picked(vectors: Tensor, wanted: Tensor, uniform: Tensor) -> Tensor:
    """Vectors drawn with repetition from those that are wanted, [B, n, F].

    vectors: [B, L, F]; wanted: [B, L] bool, of which zero vectors are no part; uniform: [B, n] in [0, 1). Where
    nothing is wanted all but zero vectors are, and of an image of zeros all.
    """
    present = vectors.abs().sum(2) > 0
    mask = torch.ones_like(present)
    for better in (present, wanted & present):
        mask = torch.where(better.any(1, keepdim=True), better, mask)
    cumulative = mask.double().cumsum(1)
    places = torch.searchsorted(cumulative, uniform.double() * cumulative[:, -1:], right=True)
    places = places.clamp_max(vectors.shape[1] - 1)
    return vectors.gather(1, places[:, :, None].expand(-1, -1, vectors.shape[2]))


def mixed_feature(tail: Tensor, generic: Tensor, gamma: Tensor) -> Tensor:
    """The mean of ``gamma L`` tail vectors and ``(1 - gamma) L`` generic ones, [B, F]; both [B, L, F], gamma [B]."""
    places = tail.shape[1]
    own = torch.arange(places, device=tail.device) < (gamma[:, None] * places).round()
    return torch.where(own[:, :, None], tail, generic).mean(1)
