"""What a step receives from one stream and how it gets to the device; steps of an epoch, and one process of several."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Mapping


class Batch(NamedTuple):
    """images: [B, C, H, W] float32 in [0, 1], augmented, not normalised; labels: [B] int64."""

    images: Tensor
    labels: Tensor


def to_device(held: Tensor, device: torch.device) -> Tensor:
    """What the host holds, there; the host does not wait for it.

    A GPU reads pinned memory alone by itself. torch keeps that until it has been read, whoever lets go of it.
    """
    return (held.pin_memory() if device.type == "cuda" else held).to(device, non_blocking=True)


@dataclass(frozen=True)
class Shard:
    """rank: of this process, from 0. Draws are made for the global batch and cut; together the processes see it all."""

    rank: int = 0
    processes: int = 1

    def part(self, size: int) -> slice:
        """Of ``size`` things in a row; parts are disjoint and make up the whole."""
        return slice(size * self.rank // self.processes, size * (self.rank + 1) // self.processes)

    def of_batch(self, size: int) -> slice:
        """Of a global batch; never empty, since every process takes part in a step: see ``weight``."""
        part = self.part(size)
        return part if part.start < part.stop else slice(0, 1)

    def weight(self, size: int) -> float:
        """Of this process's mean loss, such that the mean over the processes is that over the global batch.

        0 where a batch smaller than the number of processes leaves this one only a repeated image.
        """
        part = range(size)[self.part(size)]
        return len(part) * self.processes / size


ALONE = Shard()


@dataclass
class Epoch(ABC):
    """The steps of one epoch, in any order and as often as wanted, ``batch_size`` draws apart.

    global_sizes: images of each step over all processes.
    """

    shard: Shard
    batch_size: int
    global_sizes: list[int]

    @cached_property
    def sizes(self) -> list[int]:
        """Images of each step that fall to this process; of one stream, and the same for all."""
        parts = map(self.shard.of_batch, self.global_sizes)
        return [part.stop - part.start for part in parts]

    @cached_property
    def weights(self) -> list[float]:
        """Of this process's mean loss in each step, in the mean over the processes; 1 for a process alone."""
        return [self.shard.weight(size) for size in self.global_sizes]

    @property
    def steps(self) -> int:
        return len(self.global_sizes)

    def draws(self, step: int) -> slice:
        """This process's draws of a step, among those of the epoch."""
        start, part = step * self.batch_size, self.shard.of_batch(self.global_sizes[step])
        return slice(start + part.start, start + part.stop)

    @abstractmethod
    def batches(self, step: int) -> dict[str, Batch]:
        """One batch of each stream."""

    def inputs(self, step: int) -> dict[str, Tensor] | None:
        """What the batches of a step are made of, on the device; None where the host takes part in making them."""
        return None

    def batches_of(self, inputs: Mapping[str, Tensor]) -> dict[str, Batch]:
        """The batches that such inputs make; neither waits for the device nor depends on the step otherwise."""
        raise NotImplementedError
