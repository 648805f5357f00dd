"""Where a run computes: device, arithmetic and threads, settled once and written into the record."""

from __future__ import annotations

import logging
import os
import platform
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from lightning.fabric import Fabric

from csa.config.faults import Fault, UserError

if TYPE_CHECKING:
    from csa.config.schema import ProtocolConfig, RuntimeConfig


@dataclass(frozen=True)
class Machine:
    """precision: the arithmetic in use (the protocol's ``auto`` resolved); threads: torch's, on the processor.

    workers: processes that decode images, where these stay in their files.
    """

    device: torch.device
    precision: Literal["fp32", "bf16"]
    threads: int
    workers: int
    fabric: Fabric

    def autocast(self) -> AbstractContextManager[Any]:
        return self.fabric.autocast()

    def describe(self) -> dict[str, Any]:
        """What the record says of the hardware."""
        return {
            "device": self.device.type,
            "hardware": hardware_name(self.device),
            "precision": self.precision,
            "threads": self.threads,
        }


def choose(runtime: RuntimeConfig, protocol: ProtocolConfig) -> Machine:
    """Settle device, precision and threads.

    Raises:
        UserError: a GPU is asked for and there is none.
    """
    device = _device(runtime.device)
    threads = runtime.threads or len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    # Bit-exact resuming needs the same algorithm at every start, not the fastest one found by timing.
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # it announces its precision at every start
    precision = _precision(protocol.precision, device)
    fabric = Fabric(
        accelerator="cuda" if device.type == "cuda" else "cpu",
        devices=1,
        precision="bf16-mixed" if precision == "bf16" else "32-true",
    )
    workers = threads if runtime.workers is None else runtime.workers
    return Machine(device, precision, threads, workers, fabric)


def _device(requested: str) -> torch.device:
    available = torch.cuda.is_available()
    if requested == "cuda" and not available:
        raise UserError(Fault("runtime.device", "cuda", "torch sees no CUDA device here", allowed="auto, cpu"))
    return torch.device("cuda" if available and requested != "cpu" else "cpu")


def _precision(requested: str, device: torch.device) -> Literal["fp32", "bf16"]:
    if requested == "auto":
        return "bf16" if _has_bf16(device) else "fp32"
    return "bf16" if requested == "bf16" else "fp32"


def _has_bf16(device: torch.device) -> bool:
    """Whether bf16 is done in hardware; emulated, it would be slower than fp32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def hardware_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    names = (
        [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        if cpuinfo.exists()
        else []
    )
    return f"{names[0] if names else platform.processor() or platform.machine()}, {len(os.sched_getaffinity(0))} cores"
