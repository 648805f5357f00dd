"""Augmentation of whole batches on the device: crop and flip by one gather, ImageNet's resized crop and jitter."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.functional import pad

if TYPE_CHECKING:
    from csa.config.schema import ProtocolConfig


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


# --- resized crops --------------------------------------------------------------------------


ASPECTS = 3 / 4, 4 / 3
TRIES = 10
AT_ONCE = 8
GREY = 0.299, 0.587, 0.114
SHARES, RATIOS, CORNER = slice(0, TRIES), slice(TRIES, 2 * TRIES), slice(2 * TRIES, 2 * TRIES + 2)
HEIGHT, WIDTH, DOWN, RIGHT, CHANGES = 0, 1, 2, 3, slice(4, 11)
FLIP, FACTORS, ORDER = 0, slice(1, 4), slice(4, 7)


@dataclass(frozen=True)
class ResizedCrop:
    """torchvision's RandomResizedCrop, RandomHorizontalFlip and ColorJitter (no hue).

    Of squares that are in memory, all three; of files, whose crops the workers cut, the last two. The squares may be
    larger than what the network takes, [height, width]; unlike torchvision's, edges of their crops are not rounded to
    pixels. fractions: least and greatest part of the area that a crop has.
    """

    height: int
    width: int
    fractions: tuple[float, float]
    jitter: float
    flip: bool

    def prepare(self, images: Tensor) -> Tensor:
        """Nothing is done beforehand."""
        return images

    def unprepared(self, images: Tensor) -> Tensor:
        """What evaluation sees: the centre, a view [N, height, width, C]."""
        down, right = (images.shape[1] - self.height) // 2, (images.shape[2] - self.width) // 2
        return images[:, down : down + self.height, right : right + self.width]

    def plain(self, images: Tensor) -> Tensor:
        """What evaluation sees of images that nothing was done to."""
        return self.unprepared(images)

    def draw(self, size: int, generator: torch.Generator) -> Tensor:
        """Of ``size`` squares, float32 [size, 11], on the CPU: a box as ``crop_boxes`` has it, and ``changes``."""
        wishes = self.wishes(size, generator)
        return torch.cat([torch.from_numpy(crop_boxes(wishes, 1, 1)), self.changes(size, generator)], dim=1)

    def wishes(self, size: int, generator: torch.Generator) -> np.ndarray:
        """What ``crop_boxes`` makes crops of, whatever shape the images have: float32 [size, 22]."""
        least, greatest = self.fractions
        fraction = least + (greatest - least) * torch.rand(size, TRIES, generator=generator)
        low, high = (torch.tensor(aspect).log() for aspect in ASPECTS)
        aspect = (low + (high - low) * torch.rand(size, TRIES, generator=generator)).exp()
        corner = torch.rand(size, 2, generator=generator)
        return torch.cat([fraction, aspect, corner], dim=1).numpy()

    def changes(self, size: int, generator: torch.Generator) -> Tensor:
        """Float32 [size, 7], on the CPU.

        Whether an image is flipped; factors of brightness, contrast and saturation; and in which order these come.
        """
        flips = torch.randint(0, 2, (size, 1), generator=generator) * int(self.flip)
        factors = 1 + self.jitter * (2 * torch.rand(size, 3, generator=generator) - 1)
        order = torch.rand(size, 3, generator=generator).argsort(1)
        return torch.cat([flips, factors, order], dim=1)

    def __call__(self, images: Tensor, positions: Tensor, draws: Tensor) -> Tensor:
        """Images at ``positions`` [B] of uint8 [N, H, W, C], with their ``draws`` [B, 11].

        Returns float32 [B, C, height, width] in [0, 1], in channels-last memory.
        """
        done = self._empty(images, len(positions))
        for part in _parts(done):
            crops = self._cropped(as_floats(images[positions[part]]), draws[part])
            done[part] = _jittered(crops.contiguous(), draws[part, CHANGES]) if self.jitter else crops
        return done

    def changed(self, crops: Tensor, changes: Tensor) -> Tensor:
        """Crops uint8 [B, height, width, C] with their ``changes`` [B, 7], on one device; returned as by a call."""
        done = self._empty(crops, len(crops))
        for part in _parts(done):
            turned = torch.where(changes[part, FLIP].view(-1, 1, 1, 1) > 0, crops[part].flip(2), crops[part])
            floats = turned.permute(0, 3, 1, 2).contiguous().to(torch.float32).div_(255)
            done[part] = _jittered(floats, changes[part]) if self.jitter else floats
        return done

    def _empty(self, images: Tensor, size: int) -> Tensor:
        shape = size, images.shape[-1], self.height, self.width
        return torch.empty(shape, device=images.device, memory_format=torch.channels_last)

    def _cropped(self, images: Tensor, draws: Tensor) -> Tensor:
        """Bilinear; a crop is seldom larger than the output, so that nothing is averaged over more pixels."""
        height, width = draws[:, HEIGHT], draws[:, WIDTH]
        turned = torch.where(draws[:, CHANGES][:, FLIP] > 0, -width, width)
        across, along = 2 * draws[:, RIGHT] + width - 1, 2 * draws[:, DOWN] + height - 1
        none = torch.zeros_like(width)
        affine = torch.stack([turned, none, across, none, height, along], dim=1).view(-1, 2, 3)
        grid = F.affine_grid(affine, [len(draws), images.shape[1], self.height, self.width], align_corners=False)
        return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def crop_boxes(wishes: np.ndarray, height: int, width: int) -> np.ndarray:
    """Crops of images of this size, as their shares: height, width, top and left, float32 [n, 4].

    The first of the tries that fits; else the centre, of the nearest ratio that a crop may have. wishes: [n, 22].
    """
    fraction, aspect = wishes[:, SHARES], wishes[:, RATIOS]
    boxes = np.sqrt(
        np.stack([fraction / aspect * np.float32(width / height), fraction * aspect * np.float32(height / width)])
    )
    fits = (boxes <= 1).all(0)
    box = boxes[:, np.arange(len(wishes)), fits.argmax(1)].T
    corner = wishes[:, CORNER] * (1 - box)
    narrow, wide = ASPECTS
    largest = np.array([min(1, width / height / narrow), min(1, height / width * wide)], np.float32)
    centre = np.concatenate([largest, (1 - largest) / 2])
    return np.where(fits.any(1)[:, None], np.concatenate([box, corner], axis=1), centre)


def _parts(images: Tensor) -> Iterator[slice]:
    """All at once, but a few at a time on a processor, whose caches and allocator dislike whole batches of floats."""
    step = AT_ONCE if images.device.type == "cpu" else max(1, len(images))
    return (slice(start, start + step) for start in range(0, len(images), step))


def _jittered(images: Tensor, changes: Tensor) -> Tensor:
    """Each of the three moves an image away from, or towards, something: black, its mean grey, its own grey.

    images: float32 [B, C, H, W], changed in place; row by row in memory, where this is several times faster.
    """
    channels, height, width = images.shape[1:]
    fractions = GREY if channels == 3 else (1 / channels,) * channels
    weights = torch.stack([images.new_full((1,), fraction) for fraction in fractions], dim=1)  # filled in on the device
    for step in range(3):
        which = changes[:, ORDER][:, step].long()
        factor = changes[:, FACTORS].gather(1, which[:, None]).view(-1, 1, 1, 1)
        which = which.view(-1, 1, 1, 1)
        grey = (weights @ images.flatten(2)).view(-1, 1, height, width)
        target = torch.where(which == 1, grey.mean((2, 3), keepdim=True), torch.where(which == 2, grey, 0.0))
        images.mul_(factor).add_((1 - factor) * target).clamp_(0, 1)
    return images


def in_grey(images: Tensor) -> Tensor:
    """[B, 1, H, W], as torchvision weighs red, green and blue; the mean of other channels."""
    if images.shape[1] != 3:
        return images.mean(1, keepdim=True)
    red, green, blue = images.unbind(1)
    return (0.2989 * red + 0.587 * green + 0.114 * blue)[:, None]


# --- SimAugment -----------------------------------------------------------------------------

SIM_SHARES, SIM_JITTER, SIM_HUE, SIM_BLUR = (0.2, 1.0), 0.4, 0.1, (0.1, 2.0)
SIM_CHANCES = torch.tensor([[0.8], [0.2], [0.5]])
"""That the colours of an image are changed, that it is grey, that it is blurred."""
UNBLURRED = 1e-3
"""A blur of so many pixels leaves every pixel as it is."""


@dataclass(frozen=True)
class SimAugment(ResizedCrop):
    """SimCLR's views (Chen et al. 2020) as those of contrastive long-tailed learning have them.

    Brightness, contrast, saturation and at last hue in four of five images, one of five in grey, every second one
    blurred (torchvision draws the place of the hue among the four).
    """

    def changes(self, size: int, generator: torch.Generator) -> Tensor:
        """Float32 [size, 10]: those of a ``ResizedCrop``; the shift of the hue, whether in grey, the blur in pixels."""
        changes = super().changes(size, generator)
        jittered, grey, blurred = (torch.rand(3, size, generator=generator) < SIM_CHANCES).unbind()
        hue, blur = torch.rand(2, size, generator=generator).unbind()
        changes[:, FACTORS] = torch.where(jittered[:, None], changes[:, FACTORS], 1.0)
        hue = torch.where(jittered, SIM_HUE * (2 * hue - 1), 0.0)
        least, most = SIM_BLUR
        blur = torch.where(blurred, least + (most - least) * blur, UNBLURRED)
        return torch.cat([changes, torch.stack([hue, grey.float(), blur], dim=1)], dim=1)

    def __call__(self, images: Tensor, positions: Tensor, draws: Tensor) -> Tensor:
        return _tinted(super().__call__(images, positions, draws), draws[:, -3:])

    def changed(self, crops: Tensor, changes: Tensor) -> Tensor:
        return _tinted(super().changed(crops, changes), changes[:, -3:])


def sim_view(protocol: ProtocolConfig, image_shape: tuple[int, int, int]) -> SimAugment:
    """Of the protocol's own crops, if they are resized ones."""
    least, most = protocol.resized_crop or SIM_SHARES
    return SimAugment(*image_shape[1:], (least, most), SIM_JITTER, protocol.flip)


def _tinted(images: Tensor, draws: Tensor) -> Tensor:
    hue, grey, blur = draws.unbind(1)
    if images.shape[1] == 3:
        images = torch.where(grey.view(-1, 1, 1, 1) > 0, in_grey(images), turned_hue(images, hue))
    return blurred(images, blur).contiguous(memory_format=torch.channels_last)


def turned_hue(images: Tensor, shift: Tensor) -> Tensor:
    """Red, green and blue [B, 3, H, W] in [0, 1] with their hue moved on by ``shift`` [B] of a circle.

    From hue, range and value back: value - range * min(k, 4 - k, 1) with k = (n + 6 hue) mod 6, n = 5, 3, 1.
    """
    value, range_ = images.amax(1), images.amax(1) - images.amin(1)
    red, green, blue = images.unbind(1)
    safe = range_.clamp_min(1e-8)
    of_others = torch.where(value == green, (blue - red) / safe + 2, (red - green) / safe + 4)
    sixths = torch.where(value == red, (green - blue) / safe, of_others) + 6 * shift.view(-1, 1, 1)
    turns = [(sixths + n) % 6 for n in (5, 3, 1)]
    return torch.stack([value - range_ * torch.minimum(k, 4 - k).clamp(0, 1) for k in turns], dim=1)


def blurred(images: Tensor, pixels: Tensor) -> Tensor:
    """Each image under a Gaussian of its own, ``pixels`` [B] wide; at the border what lies outside does not count."""

    def weights(side: int) -> Tensor:
        positions = torch.arange(side, device=images.device)
        distance = (positions[:, None] - positions) / pixels.view(-1, 1, 1)
        return (-0.5 * distance.square()).softmax(-1)[:, None]

    height, width = images.shape[2:]
    return weights(height) @ images @ weights(width).mT
