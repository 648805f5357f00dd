"""What changes the weights of a stage: its optimiser; and what may be kept: their average, those of the best epoch."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from csa.models.backbone import Backbone
from csa.training.batch_norm import batch_statistics

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from csa.config.schema import ProtocolConfig
    from csa.methods.method import Method

SECOND_BETA = 0.999


def make_optimiser(method: Method, stage: int, protocol: ProtocolConfig) -> torch.optim.Optimizer:
    """The optimiser of a stage at its first learning rate, of the weights that are not frozen."""
    groups = _groups(method, stage, protocol.layer_decay)
    lr, decay = method.stages[stage].lr(0), protocol.weight_decay
    weights = [weight for group in groups for weight in group["params"]]
    optimiser: torch.optim.Optimizer
    state: tuple[str, ...]
    if protocol.optimizer == "adamw":
        on_gpu = weights[0].device.type == "cuda"  # there a step may become part of a graph
        betas = protocol.momentum, SECOND_BETA
        optimiser = torch.optim.AdamW(groups, lr, betas, weight_decay=decay, fused=True, capturable=on_gpu)
        state = ("step", "exp_avg", "exp_avg_sq")
    else:
        optimiser = torch.optim.SGD(
            groups, lr, protocol.momentum, weight_decay=decay, nesterov=protocol.nesterov, fused=True
        )
        state = ("momentum_buffer",) if protocol.momentum else ()
    # Zeros from the start give the same steps as none. The fused update wants all buffers of a group or none, but a
    # head may get its first gradient late; and what a graph's warm-up makes up for must be there before it.
    for weight in weights if state else ():
        optimiser.state[weight] = {
            name: weight.new_zeros((), dtype=torch.float32) if name == "step" else torch.zeros_like(weight)
            for name in state
        }
    return optimiser


def _groups(method: Method, stage: int, layer_decay: float) -> list[dict[str, Any]]:
    """The method's groups without what is frozen; each divided by layers, where these have rates of their own.

    A layer of a backbone learns at ``layer_decay`` times the rate of the next one, the last one of the heads'
    (Bao et al. 2022).
    """
    groups = [{"lr_factor": 1.0, **group} for group in method.parameter_groups(stage)]
    groups = [{**group, "params": [p for p in group["params"] if p.requires_grad]} for group in groups]
    if layer_decay == 1:
        return groups
    backbones = [module.layers() for module in method.modules() if isinstance(module, Backbone)]
    factors = {p: layer_decay**n for layers in backbones for n, layer in enumerate(layers[::-1], 1) for p in layer}
    divided = []
    for group in groups:
        for factor in sorted({factors.get(p, 1.0) for p in group["params"]}):
            of_factor = [p for p in group["params"] if factors.get(p, 1.0) == factor]
            divided.append({**group, "params": of_factor, "lr_factor": group["lr_factor"] * factor})
    return divided


class WeightAverage:
    """Exponential moving average of a stage's weights, and of batch-norm's statistics with them.

    The n-th update moves it by ``1 - min(decay, (1 + n) / (10 + n))`` of the way to the weights, so that it soon leaves
    the first ones. ``count`` and ``values`` are all of its state, each process's own; nothing waits for the device.
    """

    def __init__(self, method: Method, decay: float) -> None:
        self._decay = decay
        weights = [p.detach() for p in method.parameters() if p.requires_grad]
        self._weights = len(weights)
        self._averaged = [*weights, *batch_statistics(method)]
        self.values = [tensor.clone() for tensor in self._averaged]
        self.count = torch.zeros((), device=self.values[0].device)

    @torch.no_grad()
    def update(self) -> None:
        self.count.add_(1)
        fraction = 1 - ((1 + self.count) / (10 + self.count)).clamp_max(self._decay)
        way = torch._foreach_sub(self._averaged, self.values)
        torch._foreach_mul_(way, fraction)
        torch._foreach_add_(self.values, way)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the method computes with the average."""
        held = [tensor.clone() for tensor in self._averaged]
        self.adopt()
        try:
            yield
        finally:
            self._put(held)

    def adopt(self) -> None:
        """Let the method go on with the average."""
        self._put(self.values)

    @torch.no_grad()
    def _put(self, values: list[Tensor]) -> None:
        torch._foreach_copy_(self._averaged, values)

    @property
    def averaged_statistics(self) -> list[Tensor]:
        """Of ``values``, those of batch-norm."""
        return self.values[self._weights :]

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count.cpu(), "values": [value.cpu() for value in self.values]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.count.copy_(state["count"])
        torch._foreach_copy_(self.values, [value.to(self.count.device) for value in state["values"]])


class BestNetwork:
    """A stage's network at the epoch that was best on the validation images, the first of equals.

    epoch: from 0; None before there is one. accuracy: of that epoch, in percent. Each process has its own, since the
    method's state (CSA's bank) differs between them.
    """

    def __init__(self, method: Method) -> None:
        self._method = method
        self.epoch: int | None = None
        self.accuracy = -1.0
        self._state: dict[str, Tensor] = {}

    def offer(self, epoch: int, accuracy: float) -> None:
        """Keep the network as it is now, if it is better."""
        if accuracy > self.accuracy:
            self.epoch, self.accuracy = epoch, accuracy
            self._state = {name: value.detach().cpu().clone() for name, value in self._method.state_dict().items()}

    def adopt(self) -> None:
        """Let the method go on with it; a stage without an epoch stays as it is."""
        if self.epoch is not None:
            self._method.load_state_dict(self._state)

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "accuracy": self.accuracy, "state": self._state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.epoch, self.accuracy, self._state = state["epoch"], state["accuracy"], state["state"]
