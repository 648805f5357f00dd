"""What is measured on: the machine, its clock and its peaks; CIFAR-100-LT, or random images in its place.

The peaks are matrix products, and the bare network: the arithmetic alone of a training step and of an evaluation pass.
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.table import Row
from csa.config.dataset_schema import TorchvisionDataset
from csa.config.host import cores
from csa.config.schema import Config
from csa.data.dataset import inspect, load_split
from csa.data.sources.source import Preview, Source
from csa.data.sources.torchvision_archive import TorchvisionSource
from csa.data.split import Arrays
from csa.models.backbone import build_backbone
from csa.models.heads import linear_head
from csa.tracking.record import software
from csa.training.evaluation import EVALUATION_BATCH
from csa.training.launching import Graphs

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from csa.config.faults import Fault
    from csa.data.split import Split
    from csa.training.launching import Compute, Tensors
    from csa.training.machine import Machine

SIDE = 2048
PRODUCTS = 3
TYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Wall seconds of ``work``, the device waited for before and after."""
    wait(device)
    began = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - began


def wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.get_device_module(device).synchronize()


class MatrixProducts:
    """The measured peak that the network is held against; in bf16 where it trains so: emulated, one takes minutes."""

    def __init__(self, machine: Machine) -> None:
        self._device = machine.device
        self._names = sorted({machine.precision, "fp32"})
        self.rows = tuple(
            Row(f"matmul_{name}", f"matrix product {SIDE} cubed, {name}", "GFLOP/s") for name in self._names
        )

    def measure(self) -> dict[str, float]:
        return {f"matmul_{name}": self._gflops(TYPES[name]) for name in self._names}

    def _gflops(self, dtype: torch.dtype) -> float:
        matrix = torch.randn(SIDE, SIDE, device=self._device).to(dtype)

        def multiply() -> None:
            for _ in range(PRODUCTS):
                torch.mm(matrix, matrix)

        torch.mm(matrix, matrix)
        return PRODUCTS * 2 * SIDE**3 / seconds(multiply, self._device) / 1e9


def describe(machine: Machine) -> dict[str, Any]:
    """Hardware, threads, precision, versions, revision and load."""
    return {
        "machine": {**machine.describe(), "cores": cores()},
        "load_before": list(os.getloadavg()),
        **software(),
    }


def slug(hardware: str) -> str:
    """A hardware name as a part of a file name."""
    return re.sub(r"[^a-z0-9]+", "-", hardware.lower()).strip("-")


# --- the bare network ------------------------------------------------------------------------


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


# --- images ---------------------------------------------------------------------------------


NOWHERE = Path("/nonexistent")
TEST_IMAGES = 10_000


class RandomSource(Source[TorchvisionDataset]):
    """Random pixels in the shape and number of the published training and test set."""

    def inspect(self, config: TorchvisionDataset, data_dir: Path, download: bool) -> list[Fault]:
        return []

    def preview(self, config: TorchvisionDataset, data_dir: Path) -> Preview:
        return TorchvisionSource().preview(config, NOWHERE)

    def load(self, config: TorchvisionDataset, data_dir: Path, download: bool) -> Arrays:
        known = self.preview(config, data_dir)
        sizes, (channels, height, width) = known.class_sizes, known.image_shape
        draw = np.random.default_rng(0)

        def images(labels: np.ndarray) -> np.ndarray:
            return draw.integers(0, 256, (len(labels), height, width, channels), dtype=np.uint8)

        train = np.repeat(np.arange(len(sizes)), sizes)
        test = np.arange(TEST_IMAGES) % len(sizes)
        return Arrays(images(train), train, images(test), test, tuple(map(str, range(len(sizes)))))


def split_of(config: Config) -> tuple[Split, str]:
    """The split, and what to say of it. Nothing is downloaded; where there are no images, they are random."""
    dataset = config.dataset
    origin = f"{dataset.name} from {dataset.source}"
    if inspect(dataset, config.data_dir, download=False):
        origin = f"RANDOM images, since {dataset.name} is not in data_dir"
        dataset = replace(dataset, source="benchmarks.conditions.RandomSource")
    split = load_split(dataset, config.data_dir, download=False)
    return split, f"{origin}: {len(split.train_labels):,} training and {len(split.test_labels):,} test images"
