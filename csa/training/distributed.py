"""What the processes of one run do together. A process alone does all of it for itself, without a word to anyone.

Each process has its own batch-norm statistics during an epoch, and its own method state (CSA's bank); weights are the
same everywhere, since gradients are averaged. At the end of an epoch the statistics are averaged too, so that all
evaluate one network.
"""

from __future__ import annotations

import atexit
import gc
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from csa.data.batch import ALONE, Shard

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from lightning_fabric import Fabric

LOST = "another process of this run has ended"


class LostProcessError(Exception):
    """Another process of this run has ended."""


@contextmanager
def telling_lost_processes(group: ProcessGroup) -> Iterator[None]:
    """Turns what torch raises when it cannot reach another process into ``LostProcessError``."""
    try:
        yield
    except RuntimeError as error:
        message = str(error)
        if group.alone or not any(word in message.lower() for word in ("gloo", "nccl", "connection", "peer")):
            raise
        raise LostProcessError(f"{LOST} ({message.splitlines()[0]})") from error


def meet(fabric: Fabric) -> None:
    """Wait for the run's other processes, to part from them when this one ends."""
    # Its functions have the group as a default argument, for good, if they are first loaded while there is one.
    import torch.distributed.nn  # noqa: F401

    fabric.launch()
    atexit.register(_part)


def _part() -> None:
    """End gloo's threads while the interpreter is whole: one that lets go of a tensor later aborts the process.

    They end with the last reference to the group; the wrapped method has one, in a cycle.
    """
    if distributed.is_initialized():
        distributed.destroy_process_group()
    gc.collect()


class ProcessGroup:
    def __init__(self, shard: Shard = ALONE) -> None:
        self.shard = shard

    @property
    def rank(self) -> int:
        return self.shard.rank

    @property
    def size(self) -> int:
        return self.shard.processes

    @property
    def alone(self) -> bool:
        return self.size == 1

    @property
    def first(self) -> bool:
        """Whether this process writes the record."""
        return self.rank == 0

    def wrapped(self, method: nn.Module, device: torch.device) -> nn.Module:
        """The method whose gradients, after a step's one forward, are the mean over the processes."""
        if self.alone or not any(parameter.requires_grad for parameter in method.parameters()):
            return method
        # CSA's balanced head has no gradient until a bank is once enough, and each process has a bank of its own.
        device_ids = [device.index or 0] if device.type == "cuda" else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # newer torch has another name, which older has not
            return DistributedDataParallel(method, device_ids, broadcast_buffers=False, find_unused_parameters=True)

    def summed(self, values: Tensor) -> Tensor:
        """Over the processes."""
        if not self.alone:
            values = values.clone()
            distributed.all_reduce(values)
        return values

    def joined(self, values: Tensor) -> Tensor:
        """Each process's rows, however many, one below the other in the order of the processes."""
        if self.alone:
            return values
        rows = self.everyones(len(values))
        padded = torch.zeros(max(rows), *values.shape[1:], dtype=values.dtype, device=values.device)
        padded[: len(values)] = values
        parts = [torch.zeros_like(padded) for _ in rows]
        distributed.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, rows, strict=True)])

    def greatest(self, value: int) -> int:
        """Of the processes' numbers; settled between the hosts, without waiting for a device."""
        if self.alone:
            return value
        highest = torch.tensor(value)
        distributed.all_reduce(highest, distributed.ReduceOp.MAX)
        return int(highest)

    def everyones(self, value: Any) -> list[Any]:
        """Each process's value."""
        if self.alone:
            return [value]
        values: list[Any] = [None] * self.size
        distributed.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Until all are here."""
        self.greatest(0)

    def average(self, values: Sequence[Tensor]) -> None:
        """Each becomes its mean over the processes."""
        for value in values if not self.alone else ():
            value.copy_(self.summed(value) / self.size)

    def own_state(self, method: nn.Module) -> list[dict[str, Tensor]]:
        """What differs between the processes, of each; empty for a process alone."""
        if self.alone:
            return []
        return self.everyones({name: buffer.cpu() for name, buffer in method.named_buffers()})

    def load_own_state(self, method: nn.Module, states: list[Mapping[str, Tensor]]) -> None:
        if states:
            method.load_state_dict({**method.state_dict(), **states[self.rank]})
