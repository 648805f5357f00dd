"""How a step of training and a batch of evaluation are launched: kernel by kernel, compiled, or as a CUDA graph.

ResNet-32's kernels on a batch of 32 x 32 pixels last about as long as launching them takes, so that most of a
step is spent waiting for the host. A graph is captured once and then launched whole; it reads and writes fixed places:
inputs are copied there before a replay.
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch

from csa.methods.method import WITHIN
from csa.models.backbone import Backbone
from csa.training.evaluation import plain_logits

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Sequence

    from torch import Tensor

    from csa.data.batch import Batch, Epoch
    from csa.methods.method import Clock, Step
    from csa.training.state import TrainState

    Tensors = dict[str, Tensor]
    Compute = Callable[[Tensors], Tensors]
    Part = Callable[["TrainState", "Given", Clock], Tensors]

MOST_VARIANTS = 64
"""Of a function that is compiled; beyond, torch runs it eagerly. Four phases of two batch sizes are past its own 8."""
WARM_UPS = 3


class Given(NamedTuple):
    """What a step computes with: batches, rows of the method's draws; its loss's weight in the mean over processes."""

    batches: dict[str, Batch]
    rows: Tensors
    weight: float = 1.0


@dataclass
class StepInputs:
    """Of a step, by its number in an epoch."""

    epoch: Epoch
    number: int
    rows: Tensors

    @property
    def images(self) -> int:
        return self.epoch.sizes[self.number]

    @cached_property
    def given(self) -> Given:
        """Made when it is first asked for: a graph reads its own places."""
        return Given(self.epoch.batches(self.number), self.rows, self.epoch.weights[self.number])


class Launcher:
    """Of one stage.

    mode: how its steps are launched, ``graph`` only once one was; trouble: why they are not, though they should be.
    random: whether the network itself draws in a step, which is then no graph: the step's own seed is set before it.
    """

    def __init__(self, state: TrainState) -> None:
        method, machine = state.method, state.machine
        self._state = state
        self.mode = "compiled" if machine.step_mode == "compiled" else "eager"
        self.random = any(isinstance(module, Backbone) and module.random for module in method.modules())
        as_graph = machine.step_mode == "graph" and not self.random
        self.trouble = "the network draws random numbers" if machine.step_mode == "graph" and self.random else ""
        self._before_forward: Callable[..., Tensors] = method.before_forward
        self._forward: Callable[..., Step] = machine.group.wrapped(method, machine.device)
        self._first_clocks: dict[Hashable, Clock] = {}  # of each variant
        if self.mode == "compiled":
            torch._dynamo.config.recompile_limit = MOST_VARIANTS
            self._compiled_before_forward = torch.compile(self._before_forward, dynamic=False)
            self._compiled_forward: Callable[..., Step] = torch.compile(self._forward, dynamic=False)
        self._plain_logits = plain_logits(method, machine)
        self._graphs = Graphs() if as_graph else None

    def before_forward(self, batches: dict[str, Batch], clock: Clock) -> Tensors:
        """The method's, compiled where it can be."""
        if self._compiles(clock):
            return self._compiled_before_forward(batches, self._first_clock(clock))
        return self._before_forward(batches, clock)

    def forward(self, batches: dict[str, Batch], rows: Tensors, clock: Clock) -> Step:
        """The method's, compiled where it can be; its gradients are the mean over the processes."""
        if self._compiles(clock):
            return self._compiled_forward(batches, rows, self._first_clock(clock))
        return self._forward(batches, rows, clock)

    def launch(self, step: StepInputs, clock: Clock, *parts: Part) -> Tensors:
        """Parts of a step, as one graph where they can be. What they return is overwritten by the next step."""
        capturable = self._graphs is not None and clock.decision != WITHIN
        inputs = step.epoch.inputs(step.number) if capturable else None
        if inputs is not None:
            try:
                return self._replayed(inputs, step, clock, parts)
            except NotCapturedError as error:
                self._give_up(error)
        return self._computed(step.given, clock, parts)

    def _computed(self, given: Given, clock: Clock, parts: Sequence[Part]) -> Tensors:
        outputs: Tensors = {}
        for part in parts:
            outputs |= part(self._state, given, clock)
        return {name: value.detach() for name, value in outputs.items()}

    def logits(self, images: Tensor) -> Tensors:
        """Of each head, float32 [B, K]; the method is in evaluation mode."""
        if self._graphs is None:
            return self._plain_logits(images)
        try:
            outputs = self._graphs.run(
                "evaluation", {"images": images}, lambda g: self._plain_logits(g["images"]), list
            )
        except NotCapturedError as error:
            self._give_up(error)
            return self._plain_logits(images)
        return {head: value.clone() for head, value in outputs.items()}

    def _replayed(self, inputs: Tensors, step: StepInputs, clock: Clock, parts: Sequence[Part]) -> Tensors:
        batches_of, names, state = step.epoch.batches_of, step.rows.keys(), self._state

        def compute(held: Tensors) -> Tensors:
            state.optimiser.zero_grad(set_to_none=True)  # a graph has gradients of its own, and adds to none
            placed = Given(batches_of(held), {name: held[name] for name in names})
            return self._computed(placed, clock, parts)

        assert self._graphs is not None
        key = tuple(part.__name__ for part in parts), *self._variant(clock)
        outputs = self._graphs.run(key, {**inputs, **step.rows}, compute, state.tensors)
        self.mode = "graph"
        return dict(outputs)

    def _give_up(self, error: NotCapturedError) -> None:
        """From here on kernel by kernel."""
        self._graphs, self.mode, self.trouble = None, "eager", str(error)
        self._state.optimiser.zero_grad(set_to_none=True)

    def _compiles(self, clock: Clock) -> bool:
        return self.mode == "compiled" and clock.decision != WITHIN

    def _first_clock(self, clock: Clock) -> Clock:
        """The epoch's number would be compiled in, anew for every epoch; within a variant the step is the same."""
        return self._first_clocks.setdefault(self._variant(clock), clock)

    def _variant(self, clock: Clock) -> tuple[Hashable, ...]:
        return clock.stage, self._state.method.phase(clock), clock.decision


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
