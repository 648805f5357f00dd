"""Strong augmentation: AutoAugment, RandAugment and Cutout; of a whole batch at once, on the device.

Every image has operations of its own, and none is looped over: each operation is applied to the whole batch, and an
image takes the result of the one that it drew. So a step has the same shapes whatever was drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import AutoAugment, AutoAugmentPolicy, RandAugment
from torchvision.transforms.v2.functional import equalize_image

from csa.data.augmentation import CropFlip, ResizedCrop, in_grey

if TYPE_CHECKING:
    from collections.abc import Callable

    from csa.config.schema import ProtocolConfig

AUTO_LEVELS, RAND_LEVELS = 10, 31
"""Into how many levels torchvision divides the strength of an operation."""
GREY_FILL = 128.0
"""What stands where an image was moved away from, as in the released code of AutoAugment and of those who use it."""
IDENTITY = "Identity"
AT_ONCE = 2**19
"""Values of images that a processor changes at a time: large images would not stay in its caches."""


class Change(Protocol):
    """What is done to cropped and flipped images. columns: of its draws."""

    @property
    def columns(self) -> int: ...

    def draw(self, size: int, generator: torch.Generator) -> Tensor:
        """Of ``size`` images, float32 [size, columns], on the CPU."""

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        """Float32 [B, C, H, W] in [0, 1], as given."""


class Changed:
    """A crop and flip, and changes after it; it draws first, so that its numbers are those that it has alone."""

    def __init__(self, crop: CropFlip | ResizedCrop, changes: list[Change]) -> None:
        self.crop, self._changes = crop, changes
        self.prepare, self.unprepared, self.plain = crop.prepare, crop.unprepared, crop.plain
        self._columns = [change.columns for change in changes]

    def draw(self, size: int, generator: torch.Generator) -> Tensor:
        """Float32 [size, columns], on the CPU; at last those of the changes."""
        return self._with_own(self.crop.draw(size, generator), generator)

    def __call__(self, images: Tensor, positions: Tensor, draws: Tensor) -> Tensor:
        of_crop = draws[:, : -sum(self._columns)]
        return self._applied(self.crop(images, positions, of_crop), draws)

    # --- of images in files, whose crops the workers cut ------------------------------------

    def wishes(self, size: int, generator: torch.Generator) -> np.ndarray:
        assert isinstance(self.crop, ResizedCrop)
        return self.crop.wishes(size, generator)

    def changes(self, size: int, generator: torch.Generator) -> Tensor:
        assert isinstance(self.crop, ResizedCrop)
        return self._with_own(self.crop.changes(size, generator), generator)

    def changed(self, crops: Tensor, changes: Tensor) -> Tensor:
        assert isinstance(self.crop, ResizedCrop)
        return self._applied(self.crop.changed(crops, changes[:, : -sum(self._columns)]), changes)

    def _with_own(self, draws: Tensor, generator: torch.Generator) -> Tensor:
        return torch.cat([draws.float(), *(change.draw(len(draws), generator) for change in self._changes)], dim=1)

    def _applied(self, images: Tensor, draws: Tensor) -> Tensor:
        parts = torch.split(draws[:, -sum(self._columns) :], self._columns, 1)
        for change, own in zip(self._changes, parts, strict=True):
            images = change(images, own)
        return images


Augmentation = CropFlip | ResizedCrop | Changed


def changes_of(protocol: ProtocolConfig, image_shape: tuple[int, int, int]) -> list[Change]:
    """What the protocol does to cropped images; image_shape: channels, height, width that the network takes."""
    size = image_shape[1], image_shape[2]
    changes: list[Change] = []
    if protocol.augment == "auto":
        changes.append(Policy.auto(size))
    elif protocol.augment == "rand":
        changes.append(Policy.rand(size, protocol.rand_operations, protocol.rand_strength))
    if protocol.cutout:
        changes.append(Cutout(*size, protocol.cutout))
    return changes


# --- policies -------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Policy:
    """Rows of operations, one after the other; an image draws one of them, ``times`` times.

    names: of the operations, torchvision's; kinds: [R, S], indices into these; chances, strengths, signed: [R, S], the
    probability of an operation, its strength, and whether that is as often negative.
    """

    names: tuple[str, ...]
    kinds: Tensor
    chances: Tensor
    strengths: Tensor
    signed: Tensor
    times: int

    @classmethod
    def auto(cls, size: tuple[int, int]) -> Policy:
        """AutoAugment's CIFAR-10 policy (Cubuk et al. 2019), 25 rows of two; size: height, width."""
        known = AutoAugment(AutoAugmentPolicy.CIFAR10)
        space = known._augmentation_space(AUTO_LEVELS, size)
        rows = [[(name, p, space[name][0], level, space[name][1]) for name, p, level in row] for row in known.policies]
        names = (IDENTITY, *space)
        return cls(
            names,
            torch.tensor([[names.index(name) for name, *_ in row] for row in rows]),
            torch.tensor([[p for _, p, *_ in row] for row in rows]),
            torch.tensor([[_strength(levels, level) for *_, levels, level, _ in row] for row in rows]),
            torch.tensor([[signed for *_, signed in row] for row in rows]),
            times=1,
        )

    @classmethod
    def rand(cls, size: tuple[int, int], operations: int, level: int) -> Policy:
        """RandAugment (Cubuk et al. 2020): any operation as often as any other, of one strength."""
        space = RandAugment()._augmentation_space(RAND_LEVELS, size)
        strengths = [[_strength(levels, level if levels.ndim else None)] for levels, _ in space.values()]
        return cls(
            tuple(space),
            torch.arange(len(space))[:, None],
            torch.ones(len(space), 1),
            torch.tensor(strengths),
            torch.tensor([[signed] for _, signed in space.values()]),
            times=operations,
        )

    @property
    def columns(self) -> int:
        return 2 * self.times * self.kinds.shape[1]

    def draw(self, size: int, generator: torch.Generator) -> Tensor:
        """Kinds of the operations, then their strengths; one that is not done is the identity."""
        rows = torch.randint(len(self.kinds), (size, self.times), generator=generator)
        kinds, chances, strengths, signed = (
            table[rows].flatten(1) for table in (self.kinds, self.chances, self.strengths, self.signed)
        )
        done = torch.rand(kinds.shape, generator=generator) <= chances
        minus = torch.randint(2, kinds.shape, generator=generator).bool() & signed
        kinds = torch.where(done, kinds, self.names.index(IDENTITY))
        return torch.cat([kinds, torch.where(minus, -strengths, strengths)], dim=1)

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        values = images[0].numel()
        at_once = max(1, AT_ONCE // values) if images.device.type == "cpu" else len(images)
        parts = zip(torch.split(images, at_once), torch.split(draws, at_once), strict=True)
        return torch.cat([self._changed(*part) for part in parts]).contiguous(memory_format=torch.channels_last)

    def _changed(self, images: Tensor, draws: Tensor) -> Tensor:
        pixels = (255 * images.contiguous()).round_()
        for kind, strength in zip(*(half.unbind(1) for half in draws.chunk(2, dim=1)), strict=True):
            pixels = operated(pixels, self.names, kind, strength)
        return pixels / 255


def _strength(levels: Tensor, level: int | None) -> float:
    """As torchvision reads it: an operation without levels has none."""
    return 0.0 if level is None else float(levels[level])


def operated(pixels: Tensor, names: tuple[str, ...], kind: Tensor, strength: Tensor) -> Tensor:
    """Each image after its own operation, rounded down to whole grey values as torchvision does.

    pixels: [B, C, H, W], whole numbers from 0 to 255, float32; kind: [B], indices into ``names``; strength: [B].
    """

    def of(*operations: str) -> Tensor:
        drawn = torch.zeros_like(kind, dtype=torch.bool)
        for name in operations:
            if name in names:
                drawn = drawn | (kind == names.index(name))
        return drawn

    def own(*operations: str) -> Tensor:
        return of(*operations).view(-1, 1, 1, 1)

    grey = in_grey(pixels).floor_()
    away = torch.where(own("Contrast"), grey.mean((1, 2, 3), keepdim=True), torch.zeros_like(grey))
    away = torch.where(own("Sharpness"), _smoothed(pixels), torch.where(own("Color"), grey, away))
    factor, bits = (1 + strength).view(-1, 1, 1, 1), strength.view(-1, 1, 1, 1)
    blended = (factor * pixels + (1 - factor) * away).clamp_(0, 255).floor_()
    step = torch.exp2(8 - bits.clamp(0, 8))
    results = {
        ("Brightness", "Contrast", "Color", "Sharpness"): blended,
        ("Posterize",): (pixels / step).floor_() * step,
        ("Solarize",): torch.where(pixels >= bits, 255 - pixels, pixels),
        ("AutoContrast",): _stretched(pixels),
        ("Equalize",): equalize_image(pixels.to(torch.uint8)).to(pixels.dtype),
        ("Invert",): 255 - pixels,
        ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"): _moved(pixels, strength, of),
    }
    for operations, result in results.items():
        pixels = torch.where(own(*operations), result, pixels)
    return pixels


def _moved(pixels: Tensor, strength: Tensor, of: Callable[..., Tensor]) -> Tensor:
    """Each image under its own affine map, the nearest pixel of it; shears leave the top left corner where it is."""
    height, width = pixels.shape[2:]
    none = torch.zeros_like(strength)
    angle = torch.where(of("Rotate"), torch.deg2rad(strength), none)
    right, down = (torch.where(of(name), strength.trunc(), none) for name in ("TranslateX", "TranslateY"))
    along, across = (torch.where(of(name), strength, none) for name in ("ShearX", "ShearY"))
    turn, still = angle.sin(), angle.cos()
    # Where a pixel comes from, in halves of the image's sides from its centre.
    maps = [
        still, (along - turn) * (height / width), along * (height / width) - right * (2 / width),
        (across + turn) * (width / height), still, across * (width / height) - down * (2 / height),
    ]  # fmt: skip
    grid = F.affine_grid(torch.stack(maps, dim=1).view(-1, 2, 3), list(pixels.shape), align_corners=False)
    found = F.grid_sample(pixels - GREY_FILL, grid, mode="nearest", padding_mode="zeros", align_corners=False)
    return found + GREY_FILL


def _smoothed(pixels: Tensor) -> Tensor:
    """Nine pixels' mean in which the middle one counts five times; the border as it is."""
    if min(pixels.shape[2:]) < 3:
        return pixels
    rows = pixels[:, :, :-2] + pixels[:, :, 1:-1] + pixels[:, :, 2:]
    nine = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    smooth = pixels.clone()
    inner = smooth[..., 1:-1, 1:-1]
    inner.copy_(((nine + 4 * inner) / 13).round_())
    return smooth


def _stretched(pixels: Tensor) -> Tensor:
    """From the darkest value of a channel to its lightest become 0 to 255; a channel of one value stays."""
    low, high = pixels.amin((2, 3), keepdim=True), pixels.amax((2, 3), keepdim=True)
    stretched = ((pixels - low) / ((high - low) * (1 / 255)).clamp_min(1e-6)).clamp_(0, 255).floor_()
    return torch.where(high > low, stretched, pixels)


# --- Cutout ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cutout:
    """A black square of ``side`` pixels around a random pixel, as far as it is in the image (DeVries et al. 2017)."""

    height: int
    width: int
    side: int

    columns = 2

    def draw(self, size: int, generator: torch.Generator) -> Tensor:
        middles = [torch.randint(sides, (size,), generator=generator) for sides in (self.height, self.width)]
        return torch.stack(middles, dim=1).float()

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        inside = [
            (torch.arange(sides, device=images.device) - middles[:, None] + self.side // 2) // self.side == 0
            for sides, middles in zip((self.height, self.width), draws.unbind(1), strict=True)
        ]
        return images.masked_fill_(inside[0][:, None, :, None] & inside[1][:, None, None, :], 0.0)
