"""Random crop and flip of a whole batch by one gather, on the device that holds the images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad


@dataclass(frozen=True)
class CropFlip:
    """A random crop of the image's own size after zero padding, then a horizontal flip with probability 1/2.

    padding: pixels on each side, 0 for no crop.
    """

    padding: int
    flip: bool

    def prepare(self, images: Tensor) -> Tensor:
        """Pad once what every crop is cut from: uint8 [N, H, W, C] -> [N, H + 2p, W + 2p, C]."""
        return pad(images, (0, 0, self.padding, self.padding, self.padding, self.padding)).contiguous()

    def unprepared(self, padded: Tensor) -> Tensor:
        """The images that ``prepare`` padded, a view of them."""
        height, width = (side - self.padding for side in padded.shape[1:3])
        return padded[:, self.padding : height, self.padding : width]

    def plain(self, images: Tensor) -> Tensor:
        """What evaluation sees of images that nothing was done to."""
        return images

    def draw(self, size: int, generator: torch.Generator) -> Tensor:
        """Row offset, column offset and flip of ``size`` images, int64 [size, 3], on the CPU."""
        offsets = torch.randint(0, 2 * self.padding + 1, (size, 2), generator=generator)
        flips = torch.randint(0, 2, (size, 1), generator=generator)  # drawn always: switching it moves no offset
        return torch.cat([offsets, flips * int(self.flip)], dim=1)

    def __call__(self, padded: Tensor, positions: Tensor, draws: Tensor) -> Tensor:
        """Images at ``positions`` [B] of ``prepare``'s result with their ``draws`` [B, 3].

        Returns float32 [B, C, H, W] in [0, 1], in channels-last memory.
        """
        if not (self.padding or self.flip):
            return as_floats(padded[positions])
        draws = draws.long()  # those of a ``Changed`` are floats
        _, rows, columns, channels = padded.shape
        height, width = rows - 2 * self.padding, columns - 2 * self.padding
        down = torch.arange(height, device=padded.device)
        right = torch.arange(width, device=padded.device)
        row = draws[:, 0:1] + down
        column = draws[:, 1:2] + torch.where(draws[:, 2:3] > 0, width - 1 - right, right)
        # One pixel is one row of the flattened images: index_select copies it whole, several times
        # faster than indexing by image, row and column.
        pixel = ((positions[:, None] * rows + row)[:, :, None] * columns + column[:, None, :]).view(-1)
        cut = padded.view(-1, channels).index_select(0, pixel)
        return as_floats(cut.view(len(positions), height, width, channels))


def as_floats(images: Tensor) -> Tensor:
    """uint8 [B, H, W, C] -> float32 [B, C, H, W] in [0, 1], in channels-last memory."""
    return images.permute(0, 3, 1, 2).to(torch.float32).div_(255)
