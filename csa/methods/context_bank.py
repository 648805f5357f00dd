"""The context bank: the newest fitted images and their background masks, first in, first out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class ContextBank(nn.Module):
    """A ring of ``size`` entries with static shapes: pushing neither branches on data nor waits for the device.

    images: [V, C, H, W]; masks: [V, 1, H, W]; head: the slot written next; count: entries held.
    seen_full: the host's knowledge that the bank is full; never true of a bank that is not.
    """

    images: Tensor
    masks: Tensor
    head: Tensor
    count: Tensor

    def __init__(self, size: int, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("images", torch.zeros(size, *image_shape))
        self.register_buffer("masks", torch.zeros(size, 1, *image_shape[1:]))
        self.register_buffer("head", torch.zeros((), dtype=torch.int64))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.seen_full = False
        self.register_load_state_dict_post_hook(_look)  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def push(self, images: Tensor, masks: Tensor, fitted: Tensor) -> None:
        """Enter the images [B, C, H, W] and masks [B, 1, H, W] for which ``fitted`` [B] is true, in their order.

        Of more than V the newest V stay. Each slot looks up the image it receives, if any: the r-th fitted
        image goes to slot (head + r) mod V, so a slot receives the last r that leads to it.
        """
        arrived = fitted.long().cumsum(0)
        total = arrived[-1]
        slots = torch.arange(self.size, device=self.head.device)
        rank = total - 1 - (self.head + total - 1 - slots) % self.size
        received = (rank >= 0).view(-1, 1, 1, 1)
        source = torch.searchsorted(arrived, rank + 1).clamp(max=len(fitted) - 1)
        self.images.copy_(torch.where(received, images[source], self.images))
        self.masks.copy_(torch.where(received, masks[source], self.masks))
        self.head.copy_((self.head + total) % self.size)
        self.count.copy_((self.count + total).clamp(max=self.size))

    def sample(self, order: Tensor) -> tuple[Tensor, Tensor]:
        """Images [n, C, H, W] and masks [n, 1, H, W] in the slots ``order`` [n] of a full bank."""
        return self.images[order], self.masks[order]

    def empty(self) -> None:
        self.head.zero_()
        self.count.zero_()
        self.seen_full = False

    @property
    def full(self) -> Tensor:
        """Whether V entries are held, a boolean scalar on the device."""
        return self.count >= self.size

    def is_full(self) -> bool:
        """The same on the host. Reads the device until it has once seen the bank full, then no more."""
        if not self.seen_full:
            self.seen_full = bool(self.full)
        return self.seen_full


def _look(bank: ContextBank, _incompatible_keys: Any) -> None:
    """After loading a checkpoint: what was known of the bank may no longer hold."""
    bank.seen_full = bool(bank.full)
