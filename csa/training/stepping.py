"""One step of training and one batch of evaluation: eagerly, compiled, or replayed from a CUDA graph."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Literal

import torch

from csa.methods.method import WITHIN, Step
from csa.models.backbone import Backbone
from csa.training.evaluation import plain_logits
from csa.training.graphs import Graphs, NotCapturedError

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable
    from typing import Any

    from torch import Tensor

    from csa.data.batch import Batch
    from csa.data.loader import Epoch
    from csa.methods.method import Clock, Method
    from csa.training.graphs import Tensors
    from csa.training.machine import Machine
    from csa.training.optimisation import WeightAverage

LOSS = ""
"""The name of the loss among the measures that a part of a step returns; no measure has it."""
Part = Literal["opening", "rest", "whole"]
"""Of a step: ``Method.opening``; what follows it, with gradients and update; both in one launch."""
MOST_VARIANTS = 64
"""Of a function that is compiled; beyond, torch runs it eagerly. Four phases of two batch sizes are past its own 8."""


@dataclass
class Given:
    """What a step is made of: its number in an epoch, and its rows of the method's draws."""

    epoch: Epoch
    number: int
    rows: Tensors

    @property
    def images(self) -> int:
        return self.epoch.sizes[self.number]

    @cached_property
    def batches(self) -> dict[str, Batch]:
        return self.epoch.batches(self.number)


class Stepping:
    """Of one stage: its method, and the optimiser that trains it.

    mode: how its steps are launched, ``graph`` only once one was; trouble: why they are not, though they should be.
    average: of the weights, moved by every update. clip_norm: to which gradients are scaled down.
    random: whether the network itself draws in a step, which is then no graph: the step's own seed is set before it.
    """

    def __init__(
        self,
        method: Method,
        optimiser: torch.optim.Optimizer,
        machine: Machine,
        *,
        clip_norm: float | None = None,
        average: WeightAverage | None = None,
    ) -> None:
        self._method, self._optimiser, self._machine = method, optimiser, machine
        self._clip_norm, self._average = clip_norm, average
        self.mode = "compiled" if machine.step_mode == "compiled" else "eager"
        self.random = any(isinstance(module, Backbone) and module.random for module in method.modules())
        as_graph = machine.step_mode == "graph" and not self.random
        self.trouble = "the network draws random numbers" if machine.step_mode == "graph" and self.random else ""
        self._parts: tuple[Callable[..., Any], ...] = method.opening, machine.group.wrapped(method, machine.device)
        self._first_clocks: dict[Hashable, Clock] = {}  # of each variant
        if machine.step_mode == "compiled":
            torch._dynamo.config.recompile_limit = MOST_VARIANTS
            self._compiled = tuple(torch.compile(part, dynamic=False) for part in self._parts)
        self._plain_logits = plain_logits(method, machine)
        self._graphs = Graphs() if as_graph else None
        for group in optimiser.param_groups:
            rate = float(group["lr"])
            # A graph reads the rate of its step from the device; eager steps there round it as a graph does.
            on_gpu = machine.device.type == "cuda"
            group["lr"] = torch.tensor(rate, device=machine.device) if on_gpu else rate

    def set_rate(self, rate: float) -> None:
        for group in self._optimiser.param_groups:
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(rate * group["lr_factor"])
            else:
                group["lr"] = rate * group["lr_factor"]

    def step(self, epoch: Epoch, number: int, rows: Tensors, clock: Clock) -> Step:
        """Loss, gradients, update. What it returns is overwritten by the next step.

        One launch; or two, with the host reading in between how the step goes on.
        """
        given = Given(epoch, number, rows)
        outputs: dict[str, Tensor] = {}
        part: Part = "whole"
        clock = replace(clock, decision=self._method.foreseen(clock, given.images))
        if clock.decision is None:
            outputs |= self._launched("opening", given, clock)
            part, clock = "rest", replace(clock, decision=self._method.decision(clock, given.images))
        outputs |= self._launched(part, given, clock)
        return Step(outputs.pop(LOSS), outputs)

    def _launched(self, part: Part, given: Given, clock: Clock) -> Tensors:
        """As a graph where it can be one."""
        capturable = self._graphs is not None and clock.decision != WITHIN
        inputs = given.epoch.inputs(given.number) if capturable else None
        if inputs is not None:
            try:
                return self._replayed(part, inputs, given, clock)
            except NotCapturedError as error:
                self._give_up(error)
        return self._taken(part, given.batches, given.rows, clock, given.epoch.weights[given.number])

    def _replayed(self, part: Part, inputs: Tensors, given: Given, clock: Clock) -> Tensors:
        batches_of, names = given.epoch.batches_of, given.rows.keys()

        def compute(places: Tensors) -> Tensors:
            self._optimiser.zero_grad(set_to_none=True)  # a graph has gradients of its own, and adds to none
            return self._taken(part, batches_of(places), {name: places[name] for name in names}, clock, 1.0)

        assert self._graphs is not None
        key = part, *self._variant(clock)
        outputs = self._graphs.run(key, {**inputs, **given.rows}, compute, self._state)
        self.mode = "graph"
        return outputs

    def logits(self, images: Tensor) -> dict[str, Tensor]:
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

    def _give_up(self, error: NotCapturedError) -> None:
        """From here on kernel by kernel."""
        self._graphs, self.mode, self.trouble = None, "eager", str(error)
        self._optimiser.zero_grad(set_to_none=True)

    def _variant(self, clock: Clock) -> tuple[Hashable, ...]:
        return clock.stage, self._method.phase(clock), clock.decision

    def _taken(
        self, part: Part, batches: dict[str, Batch], rows: Tensors, clock: Clock, weight: float
    ) -> dict[str, Tensor]:
        opening_of, rest_of = self._parts
        if self.mode == "compiled" and clock.decision != WITHIN:
            opening_of, rest_of = self._compiled
            # The epoch's number would be compiled in, anew for every epoch; within a variant the step is the same.
            clock = self._first_clocks.setdefault(self._variant(clock), clock)
        outputs: dict[str, Tensor] = {}
        if part != "rest":
            with self._machine.autocast():
                outputs |= opening_of(batches, clock)
        if part != "opening":
            with self._machine.autocast():
                loss, measures = rest_of(batches, rows, clock)
            if not self._machine.group.alone:
                loss = weight * loss
            self._update(loss)
            outputs |= {LOSS: loss, **measures}
        return {name: value.detach() for name, value in outputs.items()}

    def _update(self, loss: Tensor) -> None:
        self._machine.fabric.backward(loss)
        if self._clip_norm is not None:
            trained = [p for group in self._optimiser.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(trained, self._clip_norm)
        self._optimiser.step()
        if self._average is not None:
            self._average.update()
        self._optimiser.zero_grad(set_to_none=True)

    def _state(self) -> list[Tensor]:
        """All that a step changes."""
        momentum = (value for state in self._optimiser.state.values() for value in state.values())
        average = () if self._average is None else (self._average.count, *self._average.values)
        tensors = chain(self._method.parameters(), self._method.buffers(), momentum, average)
        return [tensor.detach() for tensor in tensors if isinstance(tensor, torch.Tensor)]
