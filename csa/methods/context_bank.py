"""The context bank: the newest fitted images and their background masks, first in, first out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Sequence


class ContextBank(nn.Module):
    """A ring of ``size`` entries with static shapes: pushing neither branches on data nor waits for the device.

    images: [V, C, H, W]; masks: [V, 1, H, W]; head: the slot written next; count: entries held, in the first slots;
    lent: whether contexts were ever drawn from it, also before it was emptied.
    known: entries that it holds at least, as far as the host knows.
    """

    images: Tensor
    masks: Tensor
    head: Tensor
    count: Tensor
    lent: Tensor

    def __init__(self, size: int, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("images", torch.zeros(size, *image_shape))
        self.register_buffer("masks", torch.zeros(size, 1, *image_shape[1:]))
        self.register_buffer("head", torch.zeros((), dtype=torch.int64))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("lent", torch.zeros((), dtype=torch.bool))
        self.known = 0
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

    def orders(self, sizes: Sequence[int], generator: torch.Generator) -> Tensor:
        """For each step the order in which ``sample`` takes slots, [steps, W]: all V of them shuffled.

        A batch larger than V takes random slots, again and again. sizes: images of each step.
        """
        orders = torch.randint(self.size, (len(sizes), max(self.size, *sizes)), generator=generator)
        enough = torch.tensor(sizes) <= self.size
        orders[enough, : self.size] = torch.rand(int(enough.sum()), self.size, generator=generator).argsort(1)
        return orders

    def sample(self, order: Tensor, number: int) -> tuple[Tensor, Tensor]:
        """Images [n, C, H, W] and masks [n, 1, H, W] of a batch of n; the bank holds enough of them.

        order: [W], of ``orders``. While the bank fills, the slots that hold nothing yet are passed over.
        """
        if number > self.size:
            slots = order[:number]
        else:
            held = (order[: self.size] < self.count).long().cumsum(0)
            slots = order[torch.searchsorted(held, torch.arange(1, number + 1, device=order.device))]
        self.lent.fill_(True)
        return self.images[slots], self.masks[slots]

    def empty(self) -> None:
        self.head.zero_()
        self.count.zero_()
        self.known = 0

    def enough_for(self, number: int) -> bool:
        """Whether it is known to hold as many entries as a batch of ``number`` has images, or all that it can."""
        return self.known >= min(number, self.size)

    def look(self) -> bool:
        """Read the device: what is known then is what there is. Whether contexts were ever drawn."""
        self.known, lent = torch.stack([self.count, self.lent.long()]).tolist()
        return bool(lent)


def _look(bank: ContextBank, _incompatible_keys: Any) -> None:
    """After loading a checkpoint: what was known of the bank may no longer hold."""
    bank.look()
