"""Batches of images that stay in their files, decoded a few steps ahead; and which loader a split is read by.

The same index streams and the same draws as in memory. A worker is told what was drawn for an image and draws nothing
itself, so that neither the number of workers nor where an epoch is taken up again moves a random number. Flip and
colours are changed on the device, a batch at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from csa.config.faults import Fault, UserError
from csa.data.augmentation import CropFlip
from csa.data.batch import ALONE, Batch, Epoch, Shard
from csa.data.decoded_once import decoded_split
from csa.data.decoding import STEPS_AHEAD, Ask, Decoding, Reading, chunks
from csa.data.image_files import ImageFiles
from csa.data.loader import Loader, ResidentLoader, in_order
from csa.data.split import HOLDOUT, TEST, TRAIN

if TYPE_CHECKING:
    from csa.config.schema import ProtocolConfig, SamplerConfig
    from csa.data.augmentation import ResizedCrop
    from csa.data.split import Images, Split
    from csa.data.strong_augmentation import Changed


class StreamingLoader(Loader):
    """Answers as a loader in memory does, with the same index streams."""

    def __init__(
        self,
        split: Split,
        protocol: ProtocolConfig,
        device: torch.device | str,
        seed: int,
        *,
        workers: int,
        shard: Shard = ALONE,
    ) -> None:
        super().__init__(split, protocol, seed, shard, split.image_shape)
        self.decoding = Decoding(
            split.files, split.labels,
            device=torch.device(device), workers=workers,
            ahead=STEPS_AHEAD * self.batch_size // shard.processes, classes=split.classes,
        )  # fmt: skip
        self.damaged = self.decoding.damaged

    def epoch(self, streams: Mapping[str, SamplerConfig], stage: int, epoch: int) -> StreamedEpoch:
        draws, sizes = self._draws(streams, stage, epoch)
        drawn = {}
        for name, (positions, augmented, generator) in draws.items():
            assert not isinstance(augmented, CropFlip)  # a rule of the configuration: files are of all sizes
            wishes = augmented.wishes(len(positions), generator)
            changes = augmented.changes(len(positions), generator).to(self.decoding.device)
            drawn[name] = FileStream(positions, wishes, changes, augmented)
        return StreamedEpoch(self.shard, self.batch_size, sizes, self, drawn)

    def training_batches(self, batch_size: int) -> Iterator[Batch]:
        return self.decoding.in_order(TRAIN, batch_size, ALONE)

    def test_batches(self, batch_size: int, *, whole: bool = False) -> Iterator[Batch]:
        return self.decoding.in_order(TEST, batch_size, ALONE if whole else self.shard)

    def holdout_batches(self, batch_size: int, *, whole: bool = False) -> Iterator[Batch]:
        return self.decoding.in_order(HOLDOUT, batch_size, ALONE if whole else self.shard)

    def with_images(self, images: Tensor, labels: Tensor) -> StreamingLoader:
        problem = "makes training images of its own, which cannot be added to images that stay in their files"
        raise UserError(Fault("method", None, problem, "another method, or a data set that is held in memory"))


@dataclass(frozen=True)
class FileStream:
    """What one stream draws in an epoch: positions [draws], wishes of crops [draws, 22], changes [draws, 7 or more]."""

    positions: np.ndarray
    wishes: np.ndarray
    changes: Tensor
    augmented: ResizedCrop | Changed


@dataclass
class StreamedEpoch(Epoch):
    """An epoch of a ``StreamingLoader``; steps in a row are decoded ahead, any other step starts anew from there."""

    loader: StreamingLoader
    streams: dict[str, FileStream]
    _reading: Reading | None = field(default=None, init=False)
    _next: int = field(default=0, init=False)

    def batches(self, step: int) -> dict[str, Batch]:
        decoding = self.loader.decoding
        if self._reading is None or self._next != step or not decoding.is_current(self._reading):
            lists = (self.asks(stream, later) for later in range(step, self.steps) for stream in self.streams.values())
            self._reading = decoding.read(chain.from_iterable(map(chunks, lists)))
        batches = {}
        for name, stream in self.streams.items():
            asks = self.asks(stream, step)
            crops, _ = self._reading.take(asks)  # in place of a damaged image stands another of its class
            images = stream.augmented.changed(crops, stream.changes[self.draws(step)])
            batches[name] = Batch(images, decoding.labels_of(TRAIN, asks))
        self._next = step + 1
        return batches

    def asks(self, stream: FileStream, step: int) -> list[Ask]:
        """The images of this process in one step of a stream."""
        draws = self.draws(step)
        positions = stream.positions[draws].tolist()
        return [Ask(TRAIN, *of_one) for of_one in zip(positions, stream.wishes[draws], strict=True)]


def open_loader(
    split: Split,
    protocol: ProtocolConfig,
    device: torch.device | str,
    seed: int,
    *,
    workers: int,
    shard: Shard = ALONE,
) -> Loader:
    """Images in memory, in a file of decoded ones, or decoded by ``workers`` processes as they are needed.

    Raises:
        UnreadableImageError: images are decoded now, and one is damaged that may not be passed over.
    """
    if not isinstance(split.train_images, ImageFiles):
        return ResidentLoader(split, protocol, device, seed, shard=shard)
    if not split.train_images.decoded_once:
        return StreamingLoader(split, protocol, device, seed, workers=workers, shard=shard)
    decoded, damaged = decoded_split(split, workers)
    return ResidentLoader(decoded, protocol, device, seed, shard=shard, image_shape=split.image_shape, damaged=damaged)


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
