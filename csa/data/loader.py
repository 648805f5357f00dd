"""Batches of one or several index streams.

A loader answers with an epoch: its steps, their sizes, and the batches of a step. Draws are made for
the global batch at addresses of their own, so an epoch can be replayed without those before it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from copy import copy
from dataclasses import dataclass
from itertools import count
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from csa.data.augmentation import CropFlip, ResizedCrop, as_floats, sim_view
from csa.data.batch import ALONE, Batch, Epoch, Shard, to_device
from csa.data.samplers import View, epoch_indices
from csa.randomness import numpy_generator, torch_generator

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from csa.config.schema import ProtocolConfig, SamplerConfig
    from csa.data.split import Images, Split
    from csa.data.strong_augmentation import Augmentation


class Draws(NamedTuple):
    """Of one stream in an epoch: positions [draws], how these images are augmented, and the generator of that."""

    positions: np.ndarray
    augmentation: Augmentation
    generator: torch.Generator


class Loader(ABC):
    """Holds or streams the images of a split; what it draws for an epoch is the same either way.

    epoch_images: draws of an epoch, where the sampler does not decide. sim: SimAugment, for views that ask for it.
    damaged: files that were passed over so far, and why they could not be read.
    """

    damaged: Mapping[str, str]

    def __init__(
        self, split: Split, protocol: ProtocolConfig, seed: int, shard: Shard, image_shape: tuple[int, int, int]
    ) -> None:
        self.seed, self.shard, self.counts = seed, shard, split.counts
        self.batch_size, self.drop_last = protocol.batch_size, protocol.drop_last
        self.epoch_images: int | None = None
        self.augmentation, self.sim = augmentation(protocol, image_shape), sim_view(protocol, image_shape)
        self._host_labels = split.train_labels

    def _draws(
        self, streams: Mapping[str, SamplerConfig], stage: int, epoch: int
    ) -> tuple[dict[str, Draws], list[int]]:
        """Of each stream, and the sizes of the steps over all processes.

        The first stream decides the steps; the others are cut to its length, or continued with
        fresh epochs of their own. Unless the protocol drops it, the last batch may be smaller, down to
        one image, which batch-norm takes only where the feature map has more than one pixel.
        """
        drawn: dict[str, Draws] = {}
        length = self.epoch_images
        for name, sampler in streams.items():
            if isinstance(sampler, View):
                positions = drawn[sampler.of].positions
            else:
                address = (self.seed, name, stage, epoch)
                positions = epoch_positions(sampler, self._host_labels, self.counts, address, length)
            length = len(positions)
            sim = isinstance(sampler, View) and sampler.augment == "sim"
            generator = torch_generator(self.seed, "augment", name, stage, epoch)
            drawn[name] = Draws(positions, self.sim if sim else self.augmentation, generator)
        if length is None:
            raise ValueError("an epoch needs at least one stream")
        return drawn, batch_sizes(length, self.batch_size, self.drop_last)

    @abstractmethod
    def epoch(self, streams: Mapping[str, SamplerConfig], stage: int, epoch: int) -> Epoch: ...

    @abstractmethod
    def training_batches(self, batch_size: int) -> Iterator[Batch]:
        """The training set in its order, not augmented."""

    @abstractmethod
    def test_batches(self, batch_size: int, *, whole: bool = False) -> Iterator[Batch]:
        """This process's part of the test set in its order, not augmented; or all of it."""

    @abstractmethod
    def holdout_batches(self, batch_size: int, *, whole: bool = False) -> Iterator[Batch]:
        """This process's part of the validation images, as the test set, or all; none without a holdout."""

    @abstractmethod
    def with_images(self, images: Tensor, labels: Tensor) -> Loader:
        """A loader that trains on these too, uint8 [M, H, W, C] and [M]; its epochs are no longer for it."""


@dataclass(frozen=True)
class Stream:
    """What one stream draws in an epoch: positions [draws], kept beside the images, and those of the augmentation.

    sim: whether this is SimAugment in place of the protocol's.
    """

    positions: Tensor
    crops: Tensor
    sim: bool


POSITIONS, CROPS = "positions of ", "crops of "
"""Before a stream's name: the inputs of its batch."""
SMALL_BYTES = 2**30
"""Images up to here are not asked whether they fit: that would start the device early."""


class ResidentLoader(Loader):
    """A data set that fits on the device lives there as uint8 and is augmented there, batch-wise.

    One that does not stays with the host (which may have it in a file), and batches are moved. image_shape:
    channels, height, width that the network takes, where images are larger. damaged: as in ``Loader``.
    """

    def __init__(
        self,
        split: Split,
        protocol: ProtocolConfig,
        device: torch.device | str,
        seed: int,
        *,
        shard: Shard = ALONE,
        image_shape: tuple[int, int, int] | None = None,
        damaged: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        super().__init__(split, protocol, seed, shard, image_shape or split.image_shape)
        self.device, self.damaged = torch.device(device), damaged
        self._images = self.augmentation.prepare(self._resident(split.train_images))
        self._labels = self._resident(split.train_labels)
        self._test = self._plain(split.test_images), self._resident(split.test_labels)
        self._holdout = self._plain(split.holdout_images), self._resident(split.holdout_labels)

    def epoch(self, streams: Mapping[str, SamplerConfig], stage: int, epoch: int) -> ResidentEpoch:
        """All random numbers of an epoch, moved to the device at once."""
        draws, sizes = self._draws(streams, stage, epoch)
        drawn = {}
        for name, (positions, augmented, generator) in draws.items():
            kept = self._resident(positions) if self.on_device else torch.from_numpy(positions)
            crops = augmented.draw(len(positions), generator).to(self.device)
            drawn[name] = Stream(kept, crops, sim=augmented is self.sim)
        return ResidentEpoch(self.shard, self.batch_size, sizes, self, drawn)

    def training_batches(self, batch_size: int) -> Iterator[Batch]:
        return in_order(self.augmentation.unprepared(self._images), self._labels, batch_size)

    def test_batches(self, batch_size: int, *, whole: bool = False) -> Iterator[Batch]:
        return self._mine(*self._test, batch_size, whole=whole)

    def holdout_batches(self, batch_size: int, *, whole: bool = False) -> Iterator[Batch]:
        return self._mine(*self._holdout, batch_size, whole=whole)

    def with_images(self, images: Tensor, labels: Tensor) -> ResidentLoader:
        more = copy(self)
        more._images = torch.cat([self._images, self.augmentation.prepare(images).to(self._images.device)])
        more._labels = torch.cat([self._labels, labels])
        more._host_labels = more._labels.cpu().numpy()
        more.counts = tuple(np.bincount(more._host_labels, minlength=len(self.counts)).tolist())
        more.epoch_images = self.epoch_images or len(self._labels)
        return more

    @property
    def on_device(self) -> bool:
        """Whether the training images are where they are computed with."""
        return self._images.device.type == self.device.type

    def gather(self, positions: Tensor, crops: Tensor, *, sim: bool = False) -> Batch:
        """The augmented training images at ``positions`` [B], which are where the images are."""
        images, here, labels = self._images, positions, positions
        if not self.on_device:
            images, labels = (to_device(held, self.device) for held in (images[positions], positions))
            here = torch.arange(len(images), device=self.device)
        if sim:
            return Batch(self.sim(self.augmentation.unprepared(images), here, crops), self._labels[labels])
        return Batch(self.augmentation(images, here, crops), self._labels[labels])

    def _mine(self, images: Tensor, labels: Tensor, batch_size: int, *, whole: bool) -> Iterator[Batch]:
        part = (ALONE if whole else self.shard).part(len(labels))
        return in_order(images[part], labels[part], batch_size)

    def _plain(self, images: Images) -> Tensor:
        """What evaluation sees of images, uint8 [N, H, W, C]."""
        return self.augmentation.plain(self._resident(images))

    def _resident(self, array: Images) -> Tensor:
        assert isinstance(array, np.ndarray)
        held = torch.from_numpy(np.ascontiguousarray(array))
        return held.to(self.device) if fits(held, self.device) else held


@dataclass
class ResidentEpoch(Epoch):
    """An epoch of a ``ResidentLoader``."""

    loader: ResidentLoader
    streams: dict[str, Stream]

    def batches(self, step: int) -> dict[str, Batch]:
        return self.batches_of(self._inputs(step))

    def inputs(self, step: int) -> dict[str, Tensor] | None:
        return self._inputs(step) if self.loader.on_device else None

    def batches_of(self, inputs: Mapping[str, Tensor]) -> dict[str, Batch]:
        return {
            name: self.loader.gather(inputs[POSITIONS + name], inputs[CROPS + name], sim=stream.sim)
            for name, stream in self.streams.items()
        }

    def _inputs(self, step: int) -> dict[str, Tensor]:
        part = self.draws(step)
        positions = {POSITIONS + name: stream.positions[part] for name, stream in self.streams.items()}
        return positions | {CROPS + name: stream.crops[part] for name, stream in self.streams.items()}


def epoch_positions(
    sampler: SamplerConfig,
    labels: np.ndarray,
    counts: Sequence[int],
    address: tuple[int, str, int, int],
    length: int | None,
) -> np.ndarray:
    """Indices of a whole epoch, or exactly ``length`` of them; address: seed, stream, stage, epoch."""
    seed, stream, stage, epoch = address
    parts: list[np.ndarray] = []
    for again in count():
        generator = numpy_generator(seed, "indices", stream, stage, epoch, *([again] if again else []))
        parts.append(epoch_indices(sampler, labels, counts, generator))
        if length is None or sum(map(len, parts)) >= length:
            break
    return np.concatenate(parts)[:length]


def augmentation(protocol: ProtocolConfig, image_shape: tuple[int, int, int]) -> Augmentation:
    """What the protocol does to images; image_shape: channels, height, width that the network takes."""
    crop: CropFlip | ResizedCrop
    if protocol.resized_crop is None:
        crop = CropFlip(protocol.crop_padding, protocol.flip)
    elif protocol.augment == "sim":
        crop = sim_view(protocol, image_shape)
    else:
        least, greatest = protocol.resized_crop
        crop = ResizedCrop(*image_shape[1:], (least, greatest), protocol.colour_jitter, protocol.flip)
    if protocol.augment in ("standard", "sim") and not protocol.cutout:
        return crop
    from csa.data.strong_augmentation import Changed, changes_of  # torchvision's transforms, which few runs need

    return Changed(crop, changes_of(protocol, image_shape))


def batch_sizes(images: int, batch_size: int, drop_last: bool = False) -> list[int]:
    """Sizes of the batches that hold ``images`` images; the last, smaller one may be dropped if it is not the only."""
    full, rest = divmod(images, batch_size)
    return [batch_size] * full + [rest] * bool(rest and not (drop_last and full))


def fits(images: Tensor, device: torch.device) -> bool:
    """Whether images can stay on a device and leave half of its free memory to training."""
    if device.type != "cuda" or images.nbytes < SMALL_BYTES:
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return images.nbytes <= free / 2


def in_order(images: Tensor, labels: Tensor, batch_size: int) -> Iterator[Batch]:
    """Images uint8 [N, H, W, C] and labels [N] in their order, not augmented; on the device of the labels."""
    for start in range(0, len(images), batch_size):
        part = slice(start, start + batch_size)
        held = images[part]
        there = held if held.device == labels.device else to_device(held, labels.device)
        yield Batch(as_floats(there), labels[part])
