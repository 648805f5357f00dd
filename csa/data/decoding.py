"""What the loader's worker processes do: decode files and augment each image with random numbers of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2

from csa.data.pictures import UnreadableImageError, decode
from csa.randomness import seed_at

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from PIL.Image import Image

    from csa.config.schema import ProtocolConfig
    from csa.data.image_files import ImageFiles
    from csa.data.split import Images

TRAIN, TEST, HOLDOUT = "train", "test", "holdout"


class Ask(NamedTuple):
    """An image of a part, and the address of its augmentation (stream, stage, epoch, draw); None: as in evaluation."""

    part: str
    position: int
    address: tuple[str, int, int, int] | None


class Chunk(NamedTuple):
    """images: uint8 [n, 3, side, side]. damaged: which of them (their places) could not be read, and why."""

    images: Tensor
    damaged: list[tuple[int, str]]


def training_transform(side: int, protocol: ProtocolConfig) -> v2.Transform:
    """Upright picture -> uint8 [3, side, side]."""
    assert protocol.resized_crop is not None
    least, greatest = protocol.resized_crop
    jitter = protocol.colour_jitter
    return v2.Compose(
        [
            v2.PILToTensor(),
            v2.RandomResizedCrop(side, scale=(least, greatest), antialias=True),
            *([v2.RandomHorizontalFlip()] if protocol.flip else []),
            *([v2.ColorJitter(jitter, jitter, jitter)] if jitter else []),
        ]
    )


def evaluation_transform(side: int, cover: int) -> v2.Transform:
    """Upright picture -> uint8 [3, side, side]: shorter side to ``cover``, then the centre."""
    return v2.Compose([v2.PILToTensor(), v2.Resize(cover, antialias=True), v2.CenterCrop(side)])


def pixels_at(images: Images, positions: Sequence[int] | np.ndarray) -> np.ndarray:
    """A few images as evaluation sees them, uint8 [n, H, W, C]; files are read here and now."""
    chosen = np.asarray(positions)
    if isinstance(images, np.ndarray):
        pixels: np.ndarray = images[chosen]
        return pixels
    files, transform = images[chosen], evaluation_transform(images.side, images.cover)
    pictures = [transform(decode(files.path(place))).permute(1, 2, 0).numpy() for place in range(len(files))]
    return np.stack(pictures)


class Decoder(Dataset[Chunk]):
    """Answers lists of ``Ask``; holds no state, so that it does not matter which worker is asked, and when."""

    def __init__(
        self, parts: Mapping[str, ImageFiles], train_labels: np.ndarray, protocol: ProtocolConfig | None, seed: int
    ) -> None:
        any_part = next(iter(parts.values()))
        self._parts, self._seed = dict(parts), seed
        self._train = None if protocol is None else training_transform(any_part.side, protocol)
        self._plain = evaluation_transform(any_part.side, any_part.cover)
        self._side = any_part.side
        self._labels = train_labels
        self._starts = np.searchsorted(train_labels, np.arange(int(train_labels.max(initial=0)) + 2))

    def __getitems__(self, asks: Sequence[Ask]) -> Chunk:
        images = torch.zeros(len(asks), 3, self._side, self._side, dtype=torch.uint8)
        damaged = []
        for place, ask in enumerate(asks):
            try:
                picture = decode(self._parts[ask.part].path(ask.position))
            except UnreadableImageError as error:
                damaged.append((place, str(error)))
                found = self._another(ask) if ask.part == TRAIN else None
                if found is None:
                    continue
                picture = found
            images[place] = self._transformed(picture, ask)
        return Chunk(images, damaged)

    def _transformed(self, picture: Image, ask: Ask) -> Tensor:
        if ask.address is None or self._train is None:
            return self._plain(picture)  # type: ignore[no-any-return]
        # torchvision draws from torch's own generator. Its state is put back: nobody else's numbers move.
        before = torch.default_generator.get_state()
        torch.default_generator.manual_seed(seed_at(self._seed, "augment", *ask.address))
        try:
            return self._train(picture)  # type: ignore[no-any-return]
        finally:
            torch.default_generator.set_state(before)

    def _another(self, ask: Ask) -> Image | None:
        """The next readable training image of the same class; labels are sorted. None where damage stops the run."""
        files = self._parts[TRAIN]
        if not files.skip_unreadable:
            return None
        label = self._labels[ask.position]
        first, last = self._starts[label], self._starts[label + 1]
        for further in range(1, last - first):
            try:
                return decode(files.path(first + (ask.position - first + further) % (last - first)))
            except UnreadableImageError:
                continue
        return None
