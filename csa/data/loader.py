"""Batches of one or several index streams.

A loader answers with an epoch: its steps, their sizes, and the batches of a step. Draws are made for
the global batch at addresses of their own, so an epoch can be replayed without those before it.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from csa.data.augmentation import CropFlip, as_floats
from csa.data.batch import Batch
from csa.data.samplers import epoch_indices
from csa.randomness import numpy_generator, torch_generator

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from csa.config.schema import ProtocolConfig, SamplerConfig
    from csa.data.split import Split


class Epoch(Protocol):
    """The steps of one epoch, in any order and as often as wanted."""

    @property
    def sizes(self) -> list[int]:
        """Images of each step; of one stream, and the same for all."""

    @property
    def steps(self) -> int: ...

    def batches(self, step: int) -> dict[str, Batch]:
        """One batch of each stream."""


class Loader(Protocol):
    """Whatever holds or streams the images answers to this."""

    def epoch(self, streams: Mapping[str, SamplerConfig], stage: int, epoch: int) -> Epoch: ...

    def training_batches(self, batch_size: int) -> Iterator[Batch]:
        """The training set in its order, not augmented."""

    def test_batches(self, batch_size: int) -> Iterator[Batch]:
        """The test set in its order, not augmented."""

    def holdout_batches(self, batch_size: int) -> Iterator[Batch]:
        """The validation images in their order, not augmented; none without a holdout."""

    def with_images(self, images: Tensor, labels: Tensor) -> Loader:
        """A loader that trains on these too, uint8 [M, H, W, C] and [M]; its epochs are no longer for it."""


@dataclass(frozen=True)
class Stream:
    """What one stream draws in an epoch: positions [draws] and ``CropFlip`` draws [draws, 3]."""

    positions: Tensor
    crops: Tensor


class ResidentLoader:
    """A data set that fits on the device lives there as uint8 and is augmented there, batch-wise."""

    def __init__(self, split: Split, protocol: ProtocolConfig, device: torch.device | str, seed: int) -> None:
        self.seed = seed
        self.device = torch.device(device)
        self.batch_size = protocol.batch_size
        self.counts = split.counts
        self.drop_last = protocol.drop_last
        self.epoch_images: int | None = None  # draws of an epoch, where the sampler does not decide
        self.crop_flip = CropFlip(protocol.crop_padding, protocol.flip)
        self._host_labels = split.train_labels
        self._images = self.crop_flip.prepare(self._resident(split.train_images))
        self._labels = self._resident(split.train_labels)
        self._test = self._resident(split.test_images), self._resident(split.test_labels)
        self._holdout = self._resident(split.holdout_images), self._resident(split.holdout_labels)

    def epoch(self, streams: Mapping[str, SamplerConfig], stage: int, epoch: int) -> ResidentEpoch:
        """All random numbers of an epoch, moved to the device at once.

        The first stream decides the steps; the others are cut to its length, or continued with
        fresh epochs of their own. Unless the protocol drops it, the last batch may be smaller, down to
        one image, which batch-norm takes only where the feature map has more than one pixel.
        """
        drawn: dict[str, Stream] = {}
        length = self.epoch_images
        for name, sampler in streams.items():
            positions = self._positions(name, sampler, stage, epoch, length)
            length = len(positions)
            crops = self.crop_flip.draw(length, torch_generator(self.seed, "augment", name, stage, epoch))
            drawn[name] = Stream(self._resident(positions), crops.to(self.device))
        if length is None:
            raise ValueError("an epoch needs at least one stream")
        return ResidentEpoch(self, drawn, batch_sizes(length, self.batch_size, self.drop_last))

    def training_batches(self, batch_size: int) -> Iterator[Batch]:
        return in_order(self.crop_flip.unprepared(self._images), self._labels, batch_size)

    def test_batches(self, batch_size: int) -> Iterator[Batch]:
        return in_order(*self._test, batch_size)

    def holdout_batches(self, batch_size: int) -> Iterator[Batch]:
        return in_order(*self._holdout, batch_size)

    def with_images(self, images: Tensor, labels: Tensor) -> ResidentLoader:
        more = copy(self)
        more._images = torch.cat([self._images, self.crop_flip.prepare(images)])
        more._labels = torch.cat([self._labels, labels])
        more._host_labels = more._labels.cpu().numpy()
        more.counts = tuple(np.bincount(more._host_labels, minlength=len(self.counts)).tolist())
        more.epoch_images = self.epoch_images or len(self._labels)
        return more

    def gather(self, positions: Tensor, crops: Tensor) -> Batch:
        """The augmented training images at ``positions`` [B]."""
        return Batch(self.crop_flip(self._images, positions, crops), self._labels[positions])

    def _positions(self, name: str, sampler: SamplerConfig, stage: int, epoch: int, length: int | None) -> np.ndarray:
        """Indices of a whole epoch, or exactly ``length`` of them."""
        parts: list[np.ndarray] = []
        for again in count():
            address = (stage, epoch) if again == 0 else (stage, epoch, again)
            generator = numpy_generator(self.seed, "indices", name, *address)
            parts.append(epoch_indices(sampler, self._host_labels, self.counts, generator))
            if length is None or sum(map(len, parts)) >= length:
                break
        return np.concatenate(parts)[:length]

    def _resident(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)


@dataclass(frozen=True)
class ResidentEpoch:
    """An epoch of a ``ResidentLoader``."""

    loader: ResidentLoader
    streams: dict[str, Stream]
    sizes: list[int]

    @property
    def steps(self) -> int:
        return len(self.sizes)

    def batches(self, step: int) -> dict[str, Batch]:
        start = step * self.loader.batch_size
        part = slice(start, start + self.sizes[step])
        return {name: self.loader.gather(s.positions[part], s.crops[part]) for name, s in self.streams.items()}


def batch_sizes(images: int, batch_size: int, drop_last: bool = False) -> list[int]:
    """Sizes of the batches that hold ``images`` images; the last, smaller one may be dropped if it is not the only."""
    full, rest = divmod(images, batch_size)
    return [batch_size] * full + [rest] * bool(rest and not (drop_last and full))


def in_order(images: Tensor, labels: Tensor, batch_size: int) -> Iterator[Batch]:
    """Images uint8 [N, H, W, C] and labels [N] in their order, not augmented."""
    for start in range(0, len(images), batch_size):
        part = slice(start, start + batch_size)
        yield Batch(as_floats(images[part]), labels[part])
