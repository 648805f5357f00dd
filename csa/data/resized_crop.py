"""The ImageNet augmentation of a whole batch at once, on the device: resized crop, flip and colour jitter."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from csa.data.augmentation import as_floats

ASPECTS = 3 / 4, 4 / 3
TRIES = 10
GREY = 0.299, 0.587, 0.114
HEIGHT, WIDTH, DOWN, RIGHT, FLIP, FACTORS, ORDER = 0, 1, 2, 3, 4, slice(5, 8), slice(8, 11)


@dataclass(frozen=True)
class ResizedCrop:
    """torchvision's RandomResizedCrop, RandomHorizontalFlip and ColorJitter (no hue) on squares that are in memory.

    The squares may be larger than what the network takes, [height, width]. shares: least and greatest share of the
    area that a crop has. Unlike torchvision's, edges of a crop are not rounded to pixels.
    """

    height: int
    width: int
    shares: tuple[float, float]
    jitter: float
    flip: bool

    def prepare(self, images: Tensor) -> Tensor:
        """Nothing is done beforehand."""
        return images

    def unprepared(self, images: Tensor) -> Tensor:
        """What evaluation sees: the centre, a view [N, height, width, C]."""
        down, right = (images.shape[1] - self.height) // 2, (images.shape[2] - self.width) // 2
        return images[:, down : down + self.height, right : right + self.width]

    def draw(self, size: int, generator: torch.Generator) -> Tensor:
        """Of ``size`` images, float32 [size, 11], on the CPU.

        Height, width, top and left of the crop in [0, 1]; whether it is flipped; factors of brightness, contrast
        and saturation; and in which order these three come.
        """
        box = self._boxes(size, generator)
        corner = torch.rand(size, 2, generator=generator) * (1 - box)
        flips = torch.randint(0, 2, (size, 1), generator=generator) * int(self.flip)
        factors = 1 + self.jitter * (2 * torch.rand(size, 3, generator=generator) - 1)
        order = torch.rand(size, 3, generator=generator).argsort(1)
        return torch.cat([box, corner, flips, factors, order], dim=1)

    def _boxes(self, size: int, generator: torch.Generator) -> Tensor:
        """Height and width [size, 2]: the first of ten tries that fits, else the whole image."""
        least, greatest = self.shares
        share = least + (greatest - least) * torch.rand(size, TRIES, generator=generator)
        low, high = (torch.tensor(aspect).log() for aspect in ASPECTS)
        aspect = (low + (high - low) * torch.rand(size, TRIES, generator=generator)).exp()
        boxes = torch.stack([(share / aspect).sqrt(), (share * aspect).sqrt()], dim=2)
        fits = (boxes <= 1).all(2)
        first = boxes[torch.arange(size), fits.int().argmax(1)]
        return torch.where(fits.any(1, keepdim=True), first, torch.ones(()))

    def __call__(self, images: Tensor, positions: Tensor, draws: Tensor) -> Tensor:
        """Images at ``positions`` [B] of uint8 [N, H, W, C], with their ``draws`` [B, 11].

        Returns float32 [B, C, height, width] in [0, 1], in channels-last memory.
        """
        crops = self._cropped(as_floats(images[positions]), draws)
        if self.jitter:
            crops = _jittered(crops, draws)
        return crops.contiguous(memory_format=torch.channels_last)

    def _cropped(self, images: Tensor, draws: Tensor) -> Tensor:
        """Bilinear; a crop is seldom larger than the output, so that nothing is averaged over more pixels."""
        height, width = draws[:, HEIGHT], draws[:, WIDTH]
        turned = torch.where(draws[:, FLIP] > 0, -width, width)
        across, along = 2 * draws[:, RIGHT] + width - 1, 2 * draws[:, DOWN] + height - 1
        none = torch.zeros_like(width)
        affine = torch.stack([turned, none, across, none, height, along], dim=1).view(-1, 2, 3)
        grid = F.affine_grid(affine, [len(draws), images.shape[1], self.height, self.width], align_corners=False)
        return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _jittered(images: Tensor, draws: Tensor) -> Tensor:
    """Each of the three moves an image away from, or towards, something: black, its mean grey, its own grey."""
    weights = torch.tensor(GREY if images.shape[1] == 3 else [1 / images.shape[1]] * images.shape[1])
    weights = weights.to(images.device).view(1, -1, 1, 1)
    for step in range(3):
        which = draws[:, ORDER][:, step].long()
        factor = draws[:, FACTORS].gather(1, which[:, None]).view(-1, 1, 1, 1)
        which = which.view(-1, 1, 1, 1)
        grey = (images * weights).sum(1, keepdim=True)
        target = torch.where(which == 1, grey.mean((2, 3), keepdim=True), torch.where(which == 2, grey, 0.0))
        images = (factor * images + (1 - factor) * target).clamp(0, 1)
    return images
