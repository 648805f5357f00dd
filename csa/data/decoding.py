"""What the loader's worker processes do: decode files, and cut and resize what was drawn for each image."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.data import Dataset

from csa.config.faults import Fault, UserError
from csa.data.pictures import UnreadableImageError, decode, decode_crop
from csa.data.resized_crop import fitting
from csa.data.split import TRAIN

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from PIL.Image import Image
    from torchvision.transforms import v2

    from csa.data.image_files import ImageFiles
    from csa.data.split import Images


class Ask(NamedTuple):
    """An image of a part, and the wishes of its crop [22] (``ResizedCrop.wishes``); None: as evaluation sees it."""

    part: str
    position: int
    wishes: np.ndarray | None


class Damage(NamedTuple):
    """An image that could not be read: its place in a chunk, why, and whether another of its class stands there."""

    place: int
    reason: str
    replaced: bool


class Chunk(NamedTuple):
    """images: uint8 [n, side, side, 3], black where nothing was read."""

    images: Tensor
    damaged: list[Damage]


def evaluation_transform(side: int, cover: int) -> v2.Transform:
    """``in_rows`` -> uint8 [1, 3, side, side]: shorter side to ``cover``, then the centre."""
    from torchvision.transforms import v2  # two seconds, which runs on images in memory need not spend

    return v2.Compose([v2.Resize(cover, antialias=True), v2.CenterCrop(side)])


def in_rows(picture: Image) -> Tensor:
    """uint8 [1, 3, H, W] in the memory of [1, H, W, 3], which is resized twice as fast as any other."""
    return torch.from_numpy(np.array(picture))[None].permute(0, 3, 1, 2)


def pixels_at(images: Images, positions: Sequence[int] | np.ndarray) -> np.ndarray:
    """A few images as evaluation sees them, uint8 [n, H, W, C]; files are read here and now.

    Raises:
        UserError: a file cannot be read as an image.
    """
    chosen = np.asarray(positions)
    if isinstance(images, np.ndarray):
        pixels: np.ndarray = images[chosen]
        return pixels
    files, transform = images[chosen], evaluation_transform(images.side, images.cover)
    pictures = [transform(in_rows(_decoded(files.path(place)))) for place in range(len(files))]
    return torch.cat(pictures).permute(0, 2, 3, 1).numpy()


def _decoded(path: Path) -> Image:
    try:
        return decode(path)
    except UnreadableImageError as error:
        raise UserError(Fault("dataset", path, f"cannot be read as an image ({error})")) from error


def refuse(files: ImageFiles, ask: Ask, damage: Damage, class_name: str) -> None:
    """Stop at a damaged image that may not be passed over.

    Raises:
        UnreadableImageError: damage is not to be skipped, or a class has nothing else to train on.
    """
    path = files.path(ask.position)
    if not files.skip_unreadable:
        raise UnreadableImageError(f"{path} cannot be read as an image ({damage.reason})")
    if ask.part == TRAIN and not damage.replaced:
        problem = "has no training image that can be read, so it cannot be passed over"
        raise UnreadableImageError(f"class {class_name} {problem}; one of them: {path} ({damage.reason})")


def refuse_none(part: str, read: int, asked: int) -> None:
    """Stop where damage has left nothing of what was asked for."""
    if asked and not read:
        raise UnreadableImageError(f"none of the {asked} {part} images can be read")


class Decoder(Dataset[Chunk]):
    """Answers lists of ``Ask``; holds no state, so that it does not matter which worker is asked, and when."""

    def __init__(self, parts: Mapping[str, ImageFiles], train_labels: np.ndarray) -> None:
        any_part = next(iter(parts.values()))
        self._parts = dict(parts)
        self._plain = evaluation_transform(any_part.side, any_part.cover)
        self._side = any_part.side
        self._labels = train_labels
        self._starts = np.searchsorted(train_labels, np.arange(int(train_labels.max(initial=0)) + 2))

    def __getitems__(self, asks: Sequence[Ask]) -> Chunk:
        images = torch.zeros(len(asks), self._side, self._side, 3, dtype=torch.uint8)
        damaged = []
        for place, ask in enumerate(asks):
            image: Tensor | None
            try:
                image = self._read(ask)
            except UnreadableImageError as error:
                image = self._another(ask) if ask.part == TRAIN else None
                damaged.append(Damage(place, str(error), image is not None))
            if image is not None:
                images[place] = image[0].permute(1, 2, 0)
        return Chunk(images, damaged)

    def _read(self, ask: Ask) -> Tensor:
        """uint8 [1, 3, side, side]."""
        path, wishes = self._parts[ask.part].path(ask.position), ask.wishes
        if wishes is None:
            return self._plain(in_rows(decode(path)))  # type: ignore[no-any-return]
        crop = decode_crop(path, lambda height, width: fitting(wishes[None], height, width)[0].tolist(), self._side)
        return interpolate(in_rows(crop), (self._side, self._side), mode="bilinear", antialias=True)

    def _another(self, ask: Ask) -> Tensor | None:
        """Of the next readable training image of the same class; labels are sorted. None where damage stops the run."""
        if not self._parts[TRAIN].skip_unreadable:
            return None
        label = self._labels[ask.position]
        first, last = self._starts[label], self._starts[label + 1]
        for further in range(1, last - first):
            try:
                return self._read(ask._replace(position=int(first + (ask.position - first + further) % (last - first))))
            except UnreadableImageError:
                continue
        return None
