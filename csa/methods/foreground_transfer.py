"""The rules of CAM-BS (Zhang et al. 2021): tail images whose foreground is turned, moved or mirrored."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from csa.config.method_schema import ForegroundTransferConfig

ROTATE, TRANSLATE, MIRROR = 0, 1, 2
GREY_LEVELS = 255


def wanted(counts: Sequence[int], limit: int | None) -> list[int]:
    """Images to generate of each class: up to the same total for all, of a class without images none.

    limit: only of classes with fewer images than this, and at most so many (ImageNet-LT: 100).
    """
    total = max(counts) + min(count for count in counts if count)
    missing = [total - count if count else 0 for count in counts]
    if limit is None:
        return missing
    return [min(number, limit) if count < limit else 0 for count, number in zip(counts, missing, strict=True)]


def foreground(class_map: Tensor, size: tuple[int, int], threshold: float) -> Tensor:
    """Where an image shows its class, [B, H, W] bool: at least ``threshold`` times the mean of its class map.

    class_map: [B, h, w], any sign. It is scaled to 0 .. 255 in whole steps, and resized, as released; a
    constant map is foreground everywhere.
    """
    lowest, highest = class_map.amin((1, 2), keepdim=True), class_map.amax((1, 2), keepdim=True)
    contrast = highest - lowest
    scaled = (class_map - lowest) / torch.where(contrast > 0, contrast, 1.0)
    levels = (GREY_LEVELS * scaled).floor()[:, None]
    resized = F.interpolate(levels, size, mode="bilinear", align_corners=False)[:, 0].round()
    return resized >= threshold * resized.mean((1, 2), keepdim=True)


# --- geometry -------------------------------------------------------------------------------


class Moves(NamedTuple):
    """Random numbers of B transformations: kind [B] (0, 1, 2) and uniform numbers in [0, 1), [B] each."""

    kind: Tensor
    angle: Tensor
    scale: Tensor
    down: Tensor
    right: Tensor

    def part(self, these: slice, device: torch.device) -> Moves:
        return Moves(*(values[these].to(device) for values in self))


def draw_moves(number: int, generator: torch.Generator) -> Moves:
    kind = torch.randint(3, (number,), generator=generator)
    return Moves(kind, *torch.rand(4, number, generator=generator, dtype=torch.float64))


def bounding_boxes(masks: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """First and last row, first and last column of what is true, [B] each; masks: [B, H, W], none empty."""
    first_and_last = []
    for along in (2, 1):
        present = masks.any(along).to(torch.uint8)
        first_and_last += [present.argmax(1), present.shape[1] - 1 - present.flip(1).argmax(1)]
    top, bottom, left, right = first_and_last
    return top, bottom, left, right


def matrices(moves: Moves, masks: Tensor, config: ForegroundTransferConfig) -> Tensor:
    """[B, 2, 3]: from a pixel (x, y, 1) of the result to the place (x, y) of the source it shows.

    A rotation with scaling about the middle of the foreground's box; a shift by whole pixels that keeps
    the box inside the image; or a mirror image.
    """
    height, width = masks.shape[1:]
    top, bottom, left, right = bounding_boxes(masks)
    angle = torch.deg2rad((2 * moves.angle - 1) * config.max_angle)
    size = config.min_scale + (config.max_scale - config.min_scale) * moves.scale
    x, y = (left + right) / 2, (top + bottom) / 2
    cosine, sine = angle.cos() / size, angle.sin() / size
    rotate = _rows(cosine, -sine, x - cosine * x + sine * y, sine, cosine, y - sine * x - cosine * y)
    one, zero = torch.ones_like(angle), torch.zeros_like(angle)
    down = (moves.down * (height - (bottom - top))).floor() - top
    across = (moves.right * (width - (right - left))).floor() - left
    translate = _rows(one, zero, -across, zero, one, -down)
    mirror = _rows(-one, zero, (width - 1) * one, zero, one, zero)
    kind = moves.kind[:, None, None]
    return torch.where(kind == ROTATE, rotate, torch.where(kind == TRANSLATE, translate, mirror))


def _rows(*entries: Tensor) -> Tensor:
    return torch.stack(entries, 1).view(-1, 2, 3)


def warp(images: Tensor, matrices: Tensor) -> Tensor:
    """Images [B, C, H, W] seen through ``matrices`` [B, 2, 3], bilinear, 0 outside."""
    height, width = images.shape[2:]
    rows, columns = (torch.arange(side, device=matrices.device, dtype=matrices.dtype) for side in (height, width))
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    pixels = torch.stack([x, y, torch.ones_like(x)]).view(3, -1)
    across, down = (matrices @ pixels).view(-1, 2, height, width).unbind(1)
    grid = torch.stack([2 * across / max(width - 1, 1) - 1, 2 * down / max(height - 1, 1) - 1], dim=-1).float()
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=True)


def transferred(images: Tensor, masks: Tensor, matrices: Tensor) -> Tensor:
    """The transformed images where foreground was or is, the images themselves elsewhere and where that is black.

    images: uint8 [B, H, W, C]; masks: their foreground, [B, H, W] bool.
    """
    pixels = images.permute(0, 3, 1, 2).float()
    moved = warp(torch.cat([pixels, masks[:, None].float()], 1), matrices)
    shown = masks | (moved[:, -1] >= 0.5)
    new = (moved[:, :-1] * shown[:, None]).round().clamp(0, GREY_LEVELS).to(torch.uint8).permute(0, 2, 3, 1)
    return torch.where(new > 0, new, images)


# --- masks as bits --------------------------------------------------------------------------


def pack(masks: Tensor) -> Tensor:
    """[B, H, W] bool as uint8 [B, ceil(H * W / 8)]."""
    bits = F.pad(masks.flatten(1).to(torch.uint8), (0, -masks[0].numel() % 8)).view(len(masks), -1, 8)
    return (bits << _places(masks.device)).sum(2, dtype=torch.uint8)


def unpack(packed: Tensor, size: tuple[int, int]) -> Tensor:
    bits = (packed[:, :, None] >> _places(packed.device)) & 1
    height, width = size
    return bits.flatten(1)[:, : height * width].view(-1, height, width).bool()


def _places(device: torch.device) -> Tensor:
    return torch.arange(8, device=device, dtype=torch.uint8)
