"""Batches of images that stay in their files: decoded and cropped by worker processes, a few steps ahead.

The same index streams and the same draws as in memory. A worker is told what was drawn for an image and draws nothing
itself, so that neither the number of workers nor where an epoch is taken up again moves a random number. Flip and
colours are changed on the device, a batch at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from csa.config.faults import Fault, UserError
from csa.data.augmentation import as_floats
from csa.data.batch import Batch, to_device
from csa.data.decoding import Ask, Chunk, Damage, Decoder, refuse, refuse_none
from csa.data.image_files import ImageFiles
from csa.data.loader import batch_sizes, epoch_positions, in_order, resized_crop
from csa.data.sharding import ALONE, Share, SharedSteps
from csa.data.split import HOLDOUT, TEST, TRAIN
from csa.randomness import torch_generator

if TYPE_CHECKING:
    from csa.config.schema import ProtocolConfig, SamplerConfig
    from csa.data.split import Images, Split

T = TypeVar("T")
CHUNK = 32
"""Images that a worker decodes at a time: less than a batch, so that the first batch of an epoch is there early."""
STEPS_AHEAD = 2


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
            collate_fn=_as_it_is,
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

    def in_order(self, part: str, batch_size: int, share: Share) -> Iterator[Batch]:
        """This process's share of a part, not augmented; damaged images are left out.

        Raises:
            UnreadableImageError: one that may not be left out, or all of them are damaged.
        """
        size = len(self.labels[part])
        mine = [Ask(part, position, None) for position in range(size)[share.part(size)]]
        batches = list(_groups(mine, batch_size))
        reading = self.read(chain.from_iterable(map(_chunks, batches))) if mine else None
        read = 0
        for asks in batches:
            assert reading is not None
            images, whole = reading.take(asks)
            if len(whole) < len(asks):
                asks, images = [asks[place] for place in whole], images[whole]  # noqa: PLW2901
            read += len(asks)
            if asks:
                yield Batch(as_floats(images), self.labels_of(part, asks))
        refuse_none(part, read, len(mine))


class StreamingLoader:
    """Answers as a loader in memory does, with the same index streams."""

    def __init__(
        self,
        split: Split,
        protocol: ProtocolConfig,
        device: torch.device | str,
        seed: int,
        *,
        workers: int,
        share: Share = ALONE,
    ) -> None:
        self.seed, self.share, self.counts = seed, share, split.counts
        self.batch_size, self.drop_last = protocol.batch_size, protocol.drop_last
        self.augmentation = resized_crop(protocol, split.image_shape)
        self.decoding = Decoding(
            split.files, split.labels,
            device=torch.device(device), workers=workers,
            ahead=STEPS_AHEAD * self.batch_size // share.processes, classes=split.classes,
        )  # fmt: skip

    @property
    def damaged(self) -> dict[str, str]:
        """Files passed over so far, and why they could not be read."""
        return self.decoding.damaged

    def epoch(self, streams: Mapping[str, SamplerConfig], stage: int, epoch: int) -> StreamedEpoch:
        """As of a loader in memory: the first stream decides the steps and their sizes."""
        drawn: dict[str, FileStream] = {}
        length: int | None = None
        for name, sampler in streams.items():
            address = (self.seed, name, stage, epoch)
            positions = epoch_positions(sampler, self.decoding.labels[TRAIN], self.counts, address, length)
            length = len(positions)
            generator = torch_generator(self.seed, "augment", name, stage, epoch)
            wishes = self.augmentation.wishes(length, generator)
            changes = self.augmentation.changes(length, generator).to(self.decoding.device)
            drawn[name] = FileStream(positions, wishes, changes)
        if length is None:
            raise ValueError("an epoch needs at least one stream")
        sizes = batch_sizes(length, self.batch_size, self.drop_last)
        return StreamedEpoch(self.share, self.batch_size, sizes, self, drawn)

    def training_batches(self, batch_size: int) -> Iterator[Batch]:
        return self.decoding.in_order(TRAIN, batch_size, ALONE)

    def test_batches(self, batch_size: int) -> Iterator[Batch]:
        return self.decoding.in_order(TEST, batch_size, self.share)

    def holdout_batches(self, batch_size: int) -> Iterator[Batch]:
        return self.decoding.in_order(HOLDOUT, batch_size, self.share)

    def with_images(self, images: Tensor, labels: Tensor) -> StreamingLoader:
        problem = "makes training images of its own, which cannot be added to images that stay in their files"
        raise UserError(Fault("method", None, problem, "another method, or a data set that is held in memory"))


class Reading:
    """Chunks on their way, in the order in which they were asked for."""

    def __init__(self, decoding: Decoding, number: int, chunks: Iterator[Chunk]) -> None:
        self.number, self._decoding, self._chunks = number, decoding, chunks

    def take(self, asks: list[Ask]) -> tuple[Tensor, list[int]]:
        """The images of the next asks, uint8 [n, H, W, C], on the device, and the places of those that could be read.

        Chunks come in pinned memory and are joined there: joined here they would be in memory that a copy waits for.

        Raises:
            UnreadableImageError: a damaged file stops the run.
            RuntimeError: a worker process has ended; see ``telling_lost_workers``.
        """
        parts: list[Tensor] = []
        damaged = set()
        for chunk in _chunks(asks):
            images, faults = next(self._chunks)
            for damage in faults:
                self._decoding.note(chunk[damage.place], damage)
                damaged.add(CHUNK * len(parts) + damage.place)
            parts.append(to_device(images, self._decoding.device))
        return torch.cat(parts), [place for place in range(len(asks)) if place not in damaged]


@dataclass(frozen=True)
class FileStream:
    """What one stream draws in an epoch: positions [draws], wishes of crops [draws, 22], changes [draws, 7]."""

    positions: np.ndarray
    wishes: np.ndarray
    changes: Tensor


@dataclass
class StreamedEpoch(SharedSteps):
    """An epoch of a ``StreamingLoader``; steps in a row are decoded ahead, any other step starts anew from there."""

    loader: StreamingLoader
    streams: dict[str, FileStream]
    _reading: Reading | None = field(default=None, init=False)
    _next: int = field(default=0, init=False)

    def batches(self, step: int) -> dict[str, Batch]:
        loader, decoding = self.loader, self.loader.decoding
        if self._reading is None or self._next != step or not decoding.is_current(self._reading):
            lists = (self.asks(stream, later) for later in range(step, self.steps) for stream in self.streams.values())
            self._reading = decoding.read(chain.from_iterable(map(_chunks, lists)))
        batches = {}
        for name, stream in self.streams.items():
            asks = self.asks(stream, step)
            crops, _ = self._reading.take(asks)  # in place of a damaged image stands another of its class
            images = loader.augmentation.changed(crops, stream.changes[self.draws(step)])
            batches[name] = Batch(images, decoding.labels_of(TRAIN, asks))
        self._next = step + 1
        return batches

    def inputs(self, step: int) -> None:
        """The host decodes."""

    def batches_of(self, inputs: Mapping[str, Tensor]) -> dict[str, Batch]:
        raise NotImplementedError

    def asks(self, stream: FileStream, step: int) -> list[Ask]:
        """The images of this process in one step of a stream."""
        draws = self.draws(step)
        positions = stream.positions[draws].tolist()
        return [Ask(TRAIN, *of_one) for of_one in zip(positions, stream.wishes[draws], strict=True)]


class _Asked:
    """The lists of images that the workers are given next; what a DataLoader calls a batch sampler."""

    lists: Iterable[list[Ask]] = ()

    def __iter__(self) -> Iterator[list[Ask]]:
        return iter(self.lists)


def plain_batches(
    images: Images,
    labels: np.ndarray,
    batch_size: int,
    device: torch.device,
    workers: int,
    damaged: dict[str, str],
) -> Iterator[Batch]:
    """Images, in memory or in files, as evaluation sees them; labels: [N]. Files passed over come into ``damaged``."""
    if not isinstance(images, ImageFiles):
        pixels = torch.from_numpy(np.ascontiguousarray(images)).to(device)
        return in_order(pixels, torch.from_numpy(labels).to(device), batch_size)
    decoding = Decoding({TEST: images}, {TEST: labels}, device=device, workers=workers)
    decoding.damaged = damaged
    return decoding.in_order(TEST, batch_size, ALONE)


def _chunks(asks: list[Ask]) -> Iterator[list[Ask]]:
    return _groups(asks, CHUNK)


def _groups(items: list[T], size: int) -> Iterator[list[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _as_it_is(chunk: Any) -> Any:
    return chunk
