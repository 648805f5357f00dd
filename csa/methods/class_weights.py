"""What the sizes of the classes say to a loss; [K] float32, computed in float64.

A class without images counts as one with a single image: nothing of it is drawn, and everything stays finite.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

WeightRule = Literal["effective_number", "inverse_frequency"]


def class_weights(rule: WeightRule, counts: Sequence[int], beta: float) -> Tensor:
    """Weights that sum to K (BASELINES 3.1). beta: of the effective number alone, in [0, 1).

    effective_number    1 / E_k with E_k = (1 - beta^n_k) / (1 - beta) (Cui et al. 2019)
    inverse_frequency   1 / n_k
    """
    sizes = _sizes(counts)
    weights = (1 - beta) / (1 - beta**sizes) if rule == "effective_number" else 1 / sizes
    return (len(counts) * weights / weights.sum()).float()


def ldam_margins(counts: Sequence[int], largest: float) -> Tensor:
    """n_k^(-1/4), scaled so that the smallest class has the margin ``largest`` (Cao et al. 2019)."""
    sizes = _sizes(counts)
    return (largest * (sizes.min() / sizes) ** 0.25).float()


def log_prior(counts: Sequence[int]) -> Tensor:
    """log(n_k / N)."""
    sizes = _sizes(counts)
    return (sizes / sizes.sum()).log().float()


def _sizes(counts: Sequence[int]) -> Tensor:
    return torch.tensor(counts, dtype=torch.float64).clamp_min(1)
