"""Computations captured once as a CUDA graph and then launched whole, not kernel by kernel.

ResNet-32's kernels on a batch of 32 x 32 pixels last about as long as launching them takes, so that most of a
step is spent waiting for the host. A graph reads and writes fixed places: inputs are copied there before a replay.
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence

    from torch import Tensor

    Tensors = Mapping[str, Tensor]
    Compute = Callable[[Tensors], Tensors]

WARM_UPS = 3


class NotCapturedError(Exception):
    """A computation cannot be a graph; nothing has changed. The message says why."""


class Captured(Protocol):
    def replay(self) -> None:
        """Compute again, from what the places that are read hold now."""


class CudaGraph:
    """What ``work`` does, which may change any tensor but must leave none behind that it made.

    pool: of the memory that it needs on the way, see ``torch.cuda.graph_pool_handle``.
    """

    def __init__(self, work: Callable[[], None], pool: Any) -> None:
        self._graph = torch.cuda.CUDAGraph()
        stream, first = torch.cuda.current_stream(), None
        try:
            # Other threads go on meanwhile: one pins the memory of images that are read from files.
            with torch.cuda.graph(self._graph, pool=pool, capture_error_mode="thread_local"):
                try:
                    work()
                except Exception as error:
                    first = error  # ending a capture that has failed raises an error of its own
                    raise
        except Exception as error:
            _abandon(stream, pool)
            raise first or error from None

    def replay(self) -> None:
        self._graph.replay()


def _abandon(stream: torch.cuda.Stream, pool: Any) -> None:
    """Leave a capture that has failed. Newer versions of torch have done so; 2.11 ends neither and captures no more."""
    torch.cuda.set_stream(stream)
    with suppress(RuntimeError):  # nothing is allocated there any longer
        torch._C._cuda_endAllocateToPool(stream.device_index, pool)


class Replayable(NamedTuple):
    inputs: Tensors
    outputs: Tensors
    captured: Captured


class Graphs:
    """What was captured so far, by key. capture: makes work repeatable; by default CUDA graphs that share their memory.

    They can share it: replays come one after the other on one stream, and what one leaves for the next (parameters and
    statistics, and the inputs and outputs here) has places outside of it. A stage has graphs of its own.
    """

    def __init__(self, capture: Callable[[Callable[[], None]], Captured] | None = None) -> None:
        self._capture = capture or partial(CudaGraph, pool=torch.cuda.graph_pool_handle())
        self._known: dict[Hashable, Replayable] = {}

    def run(self, key: Hashable, inputs: Tensors, compute: Compute, state: Callable[[], Sequence[Tensor]]) -> Tensors:
        """``compute(inputs)``, captured when the key (and the shapes of the inputs) is met for the first time.

        state: the tensors that ``compute`` changes. Libraries choose and load their kernels while it runs for the
        first times; afterwards the state is as it was, so that capturing is no step.

        Returns tensors that the next run of the key overwrites.

        Raises:
            NotCapturedError: the device refuses to capture it.
        """
        key = key, *((name, value.shape) for name, value in inputs.items())
        if key not in self._known:
            self._known[key] = self._made(inputs, compute, state())
        made = self._known[key]
        for name, value in inputs.items():
            made.inputs[name].copy_(value)
        made.captured.replay()
        return made.outputs

    def _made(self, inputs: Tensors, compute: Compute, state: Sequence[Tensor]) -> Replayable:
        inputs = {name: value.clone() for name, value in inputs.items()}
        outputs = _warm_up(inputs, compute, state)

        def work() -> None:
            for name, value in compute(inputs).items():
                outputs[name].copy_(value)

        try:
            return Replayable(inputs, outputs, self._capture(work))
        except RuntimeError as error:
            raise NotCapturedError(str(error).partition("\n")[0]) from error


@torch.no_grad()
def _warm_up(inputs: Tensors, compute: Compute, state: Sequence[Tensor]) -> Tensors:
    """Places for the outputs."""
    before = [tensor.clone() for tensor in state]
    with torch.enable_grad(), _beside(next(iter(inputs.values())).device):
        for _ in range(WARM_UPS):
            outputs = compute(inputs)
    for tensor, value in zip(state, before, strict=True):
        tensor.copy_(value)
    return {name: value.clone() for name, value in outputs.items()}


@contextmanager
def _beside(device: torch.device) -> Iterator[None]:
    """On a stream of its own, as capturing is: autograd and the libraries keep things for each stream."""
    if device.type != "cuda":
        yield
        return
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    current = torch.cuda.current_stream(device)
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        yield
    current.wait_stream(stream)
