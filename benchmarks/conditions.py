"""What is measured on: the machine, its clock and its peak; CIFAR-100-LT, or random images in its place."""

from __future__ import annotations

import os
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from benchmarks.table import Row
from csa.config.dataset_schema import TorchvisionDataset
from csa.config.host import cores
from csa.config.schema import Config
from csa.data.dataset import inspect, load_split
from csa.data.sources.source import Preview, Source
from csa.data.sources.torchvision_archive import TorchvisionSource
from csa.data.split import Arrays
from csa.tracking.record import software

if TYPE_CHECKING:
    from collections.abc import Callable

    from csa.config.faults import Fault
    from csa.data.split import Split
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
