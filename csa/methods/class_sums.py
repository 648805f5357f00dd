"""Sums over the images of each class, the same bits every time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor


def class_sums(values: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """The sum of ``values`` [B, F] over the images of each class, [K, F] float32, and their number, int64 [K].

    labels: [B]. A product with ones and zeros: ``index_add`` adds atomically on a GPU, in another order every time.
    """
    with torch.autocast(values.device.type, enabled=False):
        members = F.one_hot(labels, num_classes)
        return members.T.float() @ values.float(), members.sum(0)
