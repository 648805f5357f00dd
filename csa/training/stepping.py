"""One step of training and one batch of evaluation: eagerly, compiled, or replayed from a CUDA graph."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

import torch

from csa.methods.method import Step
from csa.training.evaluation import plain_logits
from csa.training.graphs import Graphs, NotCapturedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from torch import Tensor

    from csa.config.schema import ProtocolConfig
    from csa.data.batch import Batch
    from csa.data.loader import Epoch
    from csa.methods.method import Clock, Method
    from csa.training.machine import Machine

MEASURE = "measure "
"""Before the names of a graph's outputs but the loss."""
MOST_VARIANTS = 64
"""Of a function that is compiled; beyond, torch runs it eagerly. Four phases of two batch sizes are past its own 8."""


def make_optimiser(method: Method, stage: int, protocol: ProtocolConfig) -> torch.optim.Optimizer:
    """The optimiser of a stage at its first learning rate."""
    optimiser = torch.optim.SGD(
        [{"lr_factor": 1.0, **group} for group in method.parameter_groups(stage)],
        lr=method.stages[stage].lr(0),
        momentum=protocol.momentum,
        weight_decay=protocol.weight_decay,
        nesterov=protocol.nesterov,
        fused=True,
    )
    if protocol.momentum:
        # The fused update wants all buffers of a group or none, but a head may get its first gradient
        # late. A zero buffer gives the same first step as no buffer.
        for parameter in (p for group in optimiser.param_groups for p in group["params"]):
            optimiser.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimiser


class Stepping:
    """Of one stage: its method, and the optimiser that trains it.

    mode: how its steps are launched, ``graph`` only once one was; trouble: why they are not, though they should be.
    """

    def __init__(self, method: Method, optimiser: torch.optim.Optimizer, machine: Machine) -> None:
        self._method, self._optimiser, self._machine = method, optimiser, machine
        self.mode = "compiled" if machine.step_mode == "compiled" else "eager"
        self.trouble = ""
        self._step_of = machine.together.wrapped(method, machine.device)
        self._first_clocks: dict[tuple[int, str], Clock] = {}  # of each phase
        if machine.step_mode == "compiled":
            torch._dynamo.config.recompile_limit = MOST_VARIANTS
            self._compiled = torch.compile(self._step_of, dynamic=False)
        self._plain_logits = plain_logits(method, machine)
        self._graphs = Graphs() if machine.step_mode == "graph" else None
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

    def step(self, epoch: Epoch, number: int, rows: Mapping[str, Tensor], clock: Clock) -> Step:
        """Loss, gradients, update. What it returns is overwritten by the next step."""
        capturable = self._graphs is not None and not self._method.reads_device(clock)
        inputs = epoch.inputs(number) if capturable else None
        if inputs is not None:
            try:
                return self._replayed(epoch, inputs, rows, clock)
            except NotCapturedError as error:
                self._give_up(error)
        return self._update(epoch.batches(number), rows, clock, epoch.weights[number])

    def _replayed(self, epoch: Epoch, inputs: dict[str, Tensor], rows: Mapping[str, Tensor], clock: Clock) -> Step:
        def compute(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
            self._optimiser.zero_grad(set_to_none=True)  # a graph has gradients of its own, and adds to none
            step = self._update(epoch.batches_of(given), {name: given[name] for name in rows}, clock, 1.0)
            return {"loss": step.loss, **{MEASURE + name: value for name, value in step.measures.items()}}

        assert self._graphs is not None
        key = clock.stage, self._method.phase(clock)
        outputs = self._graphs.run(key, {**inputs, **rows}, compute, self._state)
        self.mode = "graph"
        measures = {name.removeprefix(MEASURE): value for name, value in outputs.items() if name != "loss"}
        return Step(outputs["loss"], measures)

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

    def _update(self, batches: Mapping[str, Batch], rows: Mapping[str, Tensor], clock: Clock, weight: float) -> Step:
        step_of: Callable[..., Any] = self._step_of
        if self.mode == "compiled" and not self._method.reads_device(clock):
            step_of = self._compiled
            # The epoch's number would be compiled in, anew for every epoch; within a phase the step is the same.
            clock = self._first_clocks.setdefault((clock.stage, self._method.phase(clock)), clock)
        with self._machine.autocast():
            loss, measures = step_of(batches, rows, clock)
        if not self._machine.together.alone:
            loss = weight * loss
        self._machine.fabric.backward(loss)
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)
        return Step(loss.detach(), {name: value.detach() for name, value in measures.items()})

    def _state(self) -> list[Tensor]:
        """All that a step changes."""
        momentum = (value for state in self._optimiser.state.values() for value in state.values())
        tensors = chain(self._method.parameters(), self._method.buffers(), momentum)
        return [tensor.detach() for tensor in tensors if isinstance(tensor, torch.Tensor)]
