"""What a step receives from one stream."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """images: [B, C, H, W] float32 in [0, 1], augmented, not normalised; labels: [B] int64."""

    images: Tensor
    labels: Tensor
