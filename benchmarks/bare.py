"""The bare network: nothing but the arithmetic of a training step and of an evaluation pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.conditions import seconds
from benchmarks.table import Row
from csa.models.backbone import build_backbone
from csa.models.heads import linear_head
from csa.training.evaluation import EVALUATION_BATCH
from csa.training.launching import Graphs

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from csa.config.schema import Config
    from csa.data.split import Split
    from csa.training.launching import Compute, Tensors
    from csa.training.machine import Machine

STEPS, WARM_STEPS = 20, 2
TRAINED = 3
"""Forward passes that a training step counts as: one forward, two backward."""


class Bare:
    """The product's network, precision, threads and fused update on random images that lie on the device.

    Where the product replays its steps from CUDA graphs, so are these.
    It also says what CSA's passes would take at this speed: two trained and one evaluated for an image of the
    uniform branch, or two trained where the training pass is used again.
    """

    def __init__(self, config: Config, split: Split, machine: Machine, steps: int | None) -> None:
        self._machine, self._steps = machine, steps or STEPS
        protocol, classes = config.protocol, len(split.classes)
        backbone = build_backbone(config.backbone, split.image_shape, split.mean, split.std)
        network = nn.Sequential(backbone, linear_head(backbone, classes))
        self._network = network.to(device=machine.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._graphs = Graphs() if machine.step_mode == "graph" else None
        rate = torch.tensor(protocol.lr, device=machine.device) if self._graphs else protocol.lr
        self._optimiser = torch.optim.SGD(
            network.parameters(),
            lr=rate, momentum=protocol.momentum, weight_decay=protocol.weight_decay, fused=True,
        )  # fmt: skip
        self._images = self._random(protocol.batch_size, split.image_shape)
        self._labels = torch.randint(classes, (protocol.batch_size,), device=machine.device)
        self._test_images = self._random(EVALUATION_BATCH, split.image_shape)
        if protocol.momentum:  # as the product: the state exists before a step is captured
            for parameter in network.parameters():
                self._optimiser.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        self.forward_flops = forward_flops(network, self._images[:1])
        peak = f"matmul_{machine.precision}"
        self.rows = (
            Row("bare_train", f"bare training step, batch {protocol.batch_size}", "images/s"),
            Row("bare_train_gflops", "bare training step: arithmetic", "GFLOP/s", peak),
            Row("bare_evaluation", f"bare evaluation forward, batch {EVALUATION_BATCH}", "images/s"),
            Row("bare_evaluation_gflops", "bare evaluation forward: arithmetic", "GFLOP/s", peak),
            Row("passes_csa", "passes of csa: 2 trained, 1 evaluated", "images/s"),
            Row("passes_csa_reused", "passes of csa, re-used: 2 trained", "images/s"),
        )

    def measure(self) -> dict[str, float]:
        trained, evaluated = self._rate(self._train, self._images), self._rate(self._evaluate, self._test_images)
        return {
            "bare_train": trained,
            "bare_train_gflops": trained * TRAINED * self.forward_flops / 1e9,
            "bare_evaluation": evaluated,
            "bare_evaluation_gflops": evaluated * self.forward_flops / 1e9,
            "passes_csa": 1 / (2 / trained + 1 / evaluated),
            "passes_csa_reused": trained / 2,
        }

    def _random(self, number: int, image_shape: tuple[int, int, int]) -> torch.Tensor:
        images = torch.rand(number, *image_shape, device=self._machine.device)
        return images.contiguous(memory_format=torch.channels_last)

    def _rate(self, work: Callable[[int], None], images: torch.Tensor) -> float:
        work(WARM_STEPS)
        return self._steps * len(images) / seconds(lambda: work(self._steps), self._machine.device)

    def _train(self, steps: int) -> None:
        self._network.train()
        for _ in range(steps):
            self._launch("train", {"images": self._images, "labels": self._labels}, self._step)

    def _evaluate(self, steps: int) -> None:
        self._network.eval()
        for _ in range(steps):
            self._launch("evaluate", {"images": self._test_images}, self._forward)

    def _launch(self, name: str, inputs: Tensors, compute: Compute) -> None:
        if self._graphs is None:
            compute(inputs)
        else:
            self._graphs.run(name, inputs, compute, self._state)

    def _step(self, given: Tensors) -> Tensors:
        self._optimiser.zero_grad(set_to_none=True)
        with self._machine.autocast():
            loss = F.cross_entropy(self._network(given["images"]).float(), given["labels"])
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimiser.step()
        return {"loss": loss.detach()}

    @torch.no_grad()
    def _forward(self, given: Tensors) -> Tensors:
        with self._machine.autocast():
            return {"logits": self._network(given["images"])}

    def _state(self) -> list[Tensor]:
        momentum = [tensor for state in self._optimiser.state.values() for tensor in state.values()]
        return [tensor.detach() for tensor in (*self._network.parameters(), *self._network.buffers(), *momentum)]


@torch.no_grad()
def forward_flops(network: nn.Module, image: torch.Tensor) -> int:
    """Of one image [1, C, H, W]; a multiplication and its addition are two."""
    network.eval()
    with FlopCounterMode(display=False) as counter:
        network(image)
    return int(counter.get_total_flops())
