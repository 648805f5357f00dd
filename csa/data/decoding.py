"""Worker processes that decode files, cut and resize what was drawn for each image, and how they are asked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.data import DataLoader, Dataset

from csa.config.faults import Fault, UserError
from csa.data.augmentation import as_floats, crop_boxes
from csa.data.batch import Batch, Shard, to_device
from csa.data.pictures import UnreadableImageError, decode, decode_crop
from csa.data.split import TRAIN

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.Image import Image
    from torchvision.transforms import v2

    from csa.data.image_files import ImageFiles
    from csa.data.split import Images

T = TypeVar("T")
CHUNK = 32
"""Images that a worker decodes at a time: less than a batch, so that the first batch of an epoch is there early."""
STEPS_AHEAD = 2


class Ask(NamedTuple):
    """An image of a part, and the wishes of its crop [22] (``ResizedCrop.wishes``); None: as evaluation sees it."""

    part: str
    position: int
    wishes: np.ndarray | None


class Damage(NamedTuple):
    """An image that could not be read: its place in a chunk, why, and whether another of its class stands there."""

    position: int
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
    pictures = [transform(in_rows(_decoded(files.path(position)))) for position in range(len(files))]
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
        for position, ask in enumerate(asks):
            image: Tensor | None
            try:
                image = self._read(ask)
            except UnreadableImageError as error:
                image = self._another(ask) if ask.part == TRAIN else None
                damaged.append(Damage(position, str(error), image is not None))
            if image is not None:
                images[position] = image[0].permute(1, 2, 0)
        return Chunk(images, damaged)

    def _read(self, ask: Ask) -> Tensor:
        """uint8 [1, 3, side, side]."""
        path, wishes = self._parts[ask.part].path(ask.position), ask.wishes
        if wishes is None:
            return self._plain(in_rows(decode(path)))  # type: ignore[no-any-return]
        crop = decode_crop(path, lambda height, width: crop_boxes(wishes[None], height, width)[0].tolist(), self._side)
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


class Decoding:
    """Worker processes and what they read; ``workers`` of them, kept until the end, 0: decode in this process.

    ahead: images that are decoded before they are asked for. classes: names, of data that is trained on. damaged:
    files that could not be read so far, with the reason.
    """

    def __init__(
        self,
        files: Mapping[str, ImageFiles],
        labels: Mapping[str, np.ndarray],
        *,
        device: torch.device,
        workers: int,
        ahead: int = STEPS_AHEAD * 256,
        classes: Sequence[str] = (),
    ) -> None:
        self.files, self.labels, self.device, self._classes = files, labels, device, classes
        self.damaged: dict[str, str] = {}
        self._asked = _Asked()
        self._decoded: DataLoader[Chunk] = DataLoader(
            Decoder(files, labels.get(TRAIN, np.zeros(0, np.int64))),
            batch_sampler=self._asked,
            num_workers=workers,
            collate_fn=as_it_is,
            pin_memory=device.type == "cuda",
            persistent_workers=workers > 0,
            prefetch_factor=max(2, -(-ahead // CHUNK // workers)) if workers else None,
            generator=torch.Generator(),
        )
        self._reading = 0

    def read(self, asks: Iterable[list[Ask]]) -> Reading:
        """Begin to decode; what was being read before is given up."""
        self._reading += 1
        self._asked.lists = asks
        return Reading(self, self._reading, iter(self._decoded))

    def is_current(self, reading: Reading) -> bool:
        return reading.number == self._reading

    def note(self, ask: Ask, damage: Damage) -> None:
        """Count a damaged file, or stop at it.

        Raises:
            UnreadableImageError: see ``refuse``.
        """
        name = self._classes[self.labels[TRAIN][ask.position]] if ask.part == TRAIN else ""
        refuse(self.files[ask.part], ask, damage, name)
        self.damaged[str(self.files[ask.part].path(ask.position))] = damage.reason

    def labels_of(self, part: str, asks: list[Ask]) -> Tensor:
        """On the device, [n]."""
        return to_device(torch.from_numpy(self.labels[part][[ask.position for ask in asks]]), self.device)

    def in_order(self, part: str, batch_size: int, shard: Shard) -> Iterator[Batch]:
        """This process's share of a part, not augmented; damaged images are left out.

        Raises:
            UnreadableImageError: one that may not be left out, or all of them are damaged.
        """
        size = len(self.labels[part])
        mine = [Ask(part, position, None) for position in range(size)[shard.part(size)]]
        batches = list(_groups(mine, batch_size))
        reading = self.read(chain.from_iterable(map(chunks, batches))) if mine else None
        read = 0
        for asks in batches:
            assert reading is not None
            images, whole = reading.take(asks)
            if len(whole) < len(asks):
                asks, images = [asks[position] for position in whole], images[whole]  # noqa: PLW2901
            read += len(asks)
            if asks:
                yield Batch(as_floats(images), self.labels_of(part, asks))
        refuse_none(part, read, len(mine))


class Reading:
    """Chunks on their way, in the order in which they were asked for."""

    def __init__(self, decoding: Decoding, number: int, chunks: Iterator[Chunk]) -> None:
        self.number, self._decoding, self.chunks = number, decoding, chunks

    def take(self, asks: list[Ask]) -> tuple[Tensor, list[int]]:
        """The images of the next asks, uint8 [n, H, W, C], on the device, and the places of those that could be read.

        Chunks come in pinned memory and are joined there: joined here they would be in memory that a copy waits for.

        Raises:
            UnreadableImageError: a damaged file stops the run.
            RuntimeError: a worker process has ended; see ``telling_lost_workers``.
        """
        parts: list[Tensor] = []
        damaged = set()
        for chunk in chunks(asks):
            images, faults = next(self.chunks)
            for damage in faults:
                self._decoding.note(chunk[damage.position], damage)
                damaged.add(CHUNK * len(parts) + damage.position)
            parts.append(to_device(images, self._decoding.device))
        return torch.cat(parts), [position for position in range(len(asks)) if position not in damaged]


class _Asked:
    """The lists of images that the workers are given next; what a DataLoader calls a batch sampler."""

    lists: Iterable[list[Ask]] = ()

    def __iter__(self) -> Iterator[list[Ask]]:
        return iter(self.lists)


def chunks(asks: list[Ask]) -> Iterator[list[Ask]]:
    return _groups(asks, CHUNK)


def _groups(items: list[T], size: int) -> Iterator[list[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def as_it_is(chunk: Any) -> Any:
    """What a DataLoader need not collate; by name, since worker processes may have to be sent it."""
    return chunk


class LostWorkerError(Exception):
    """A worker process ended, and with it the images that it was to decode."""


@contextmanager
def telling_lost_workers() -> Iterator[None]:
    """Turns what torch raises when a worker has ended into ``LostWorkerError``; it does so at any line."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise LostWorkerError(str(error).splitlines()[0]) from error
