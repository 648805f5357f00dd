"""Rules that make a training image out of two; their random numbers are drawn by the caller."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from csa.methods.losses import Targets


def mixup(images: Tensor, labels: Tensor, share: Tensor, order: Tensor) -> tuple[Tensor, Targets]:
    """Each image with its partner, one permutation for images and labels (Zhang et al. 2018).

    images: [B, C, H, W]; share: scalar in [0, 1], what an image keeps of itself; order: [B], a permutation.
    """
    mixed = share * images + (1 - share) * images[order]
    return mixed, [(labels, share), (labels[order], 1 - share)]


def mixup_draws(alpha: float, sizes: Sequence[int], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Shares ~ Beta(alpha, alpha), [steps], and permutations, [steps, B] with B the largest size.

    The first ``sizes[i]`` entries of row i permute 0 .. sizes[i] - 1; what follows is padding.
    """
    keys = torch.rand(len(sizes), max(sizes), generator=generator)
    places = torch.arange(max(sizes))
    absent = places >= torch.tensor(sizes)[:, None]
    order = torch.where(absent, 1.0 + places, keys).argsort(1)
    seed = int(torch.randint(2**62, (), generator=generator))  # torch has no Beta that takes a generator
    share = np.random.Generator(np.random.PCG64(seed)).beta(alpha, alpha, len(sizes))
    return torch.from_numpy(share).float(), order


def blend_context(images: Tensor, contexts: Tensor, masks: Tensor, share: Tensor) -> Tensor:
    """``lambda M * context + (1 - lambda M) * image``: a new background, the label stays (METHOD: CSA 5).

    images, contexts: [B, C, H, W]; masks: [B, 1, H, W], 1 where the context is background; share: lambda.
    """
    weight = share * masks
    return weight * contexts + (1 - weight) * images
