"""Computations captured once as a CUDA graph and then launched whole, not kernel by kernel.

ResNet-32's kernels on a batch of 32 x 32 pixels last about as long as launching them takes, so that most of a
step is spent waiting for the host. A graph reads and writes fixed places: inputs are copied there before a replay.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

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
    def replay(self) -> Tensors:
        """Compute again from what the inputs hold now; the answer is overwritten by the next replay."""


class CudaGraph:
    """Reads its inputs, and may change tensors beside them, but must allocate nothing that outlives it."""

    def __init__(self, compute: Compute, inputs: Tensors) -> None:
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._outputs = compute(inputs)

    def replay(self) -> Tensors:
        self._graph.replay()
        return self._outputs


class Graphs:
    """What was captured so far, by key. capture: makes a computation on static inputs repeatable."""

    def __init__(self, capture: Callable[[Compute, Tensors], Captured] = CudaGraph) -> None:
        self._capture = capture
        self._known: dict[Hashable, tuple[Tensors, Captured]] = {}

    def run(self, key: Hashable, inputs: Tensors, compute: Compute, state: Callable[[], Sequence[Tensor]]) -> Tensors:
        """``compute(inputs)``, captured when the key (and the shapes of the inputs) is met for the first time.

        state: the tensors that ``compute`` changes. Libraries choose and load their kernels while it runs for the
        first times; afterwards the state is as it was, so that capturing is no step.

        Raises:
            NotCapturedError: the device refuses to capture it.
        """
        key = key, *((name, value.shape) for name, value in inputs.items())
        if key not in self._known:
            places = {name: value.clone() for name, value in inputs.items()}
            _warm_up(places, compute, state())
            try:
                self._known[key] = places, self._capture(compute, places)
            except RuntimeError as error:
                raise NotCapturedError(str(error)) from error
        static, captured = self._known[key]
        for name, value in inputs.items():
            static[name].copy_(value)
        return captured.replay()


@torch.no_grad()
def _warm_up(inputs: Tensors, compute: Compute, state: Sequence[Tensor]) -> None:
    before = [tensor.clone() for tensor in state]
    with torch.enable_grad(), _beside(next(iter(inputs.values())).device):
        for _ in range(WARM_UPS):
            compute(inputs)
    for tensor, value in zip(state, before, strict=True):
        tensor.copy_(value)


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
