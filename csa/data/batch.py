"""What a step receives from one stream, and how it reaches the device."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Batch(NamedTuple):
    """images: [B, C, H, W] float32 in [0, 1], augmented, not normalised; labels: [B] int64."""

    images: Tensor
    labels: Tensor


def to_device(held: Tensor, device: torch.device) -> Tensor:
    """What the host holds, there; the host does not wait for it.

    A GPU reads pinned memory alone by itself. torch keeps that until it has been read, whoever lets go of it.
    """
    return (held.pin_memory() if device.type == "cuda" else held).to(device, non_blocking=True)
