"""The machine: its clock, how fast it multiplies matrices, and what it is called."""

from __future__ import annotations

import os
import re
import time
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.table import Row
from csa.config.host import cores
from csa.tracking.record import software

if TYPE_CHECKING:
    from collections.abc import Callable

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
