"""What of this machine a run gets: a slot's threads and GPU. Found out without torch."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from csa.config.schema import RuntimeConfig, SweepConfig

GPUS = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Slot:
    """threads: of the processor; gpu: as CUDA_VISIBLE_DEVICES names it, None without one."""

    number: int
    threads: int
    gpu: str | None


def slots(sweep: SweepConfig, runtime: RuntimeConfig) -> list[Slot]:
    """The slots of a sweep: ``sweep.slots``, else ``runtime.jobs_per_gpu`` for each GPU, else one."""
    gpus = [] if runtime.device == "cpu" else visible_gpus()
    count = sweep.slots or max(1, len(gpus) * runtime.jobs_per_gpu)
    threads = runtime.threads or max(1, len(os.sched_getaffinity(0)) // count)
    return [Slot(number, threads, gpus[number % len(gpus)] if gpus else None) for number in range(count)]


def visible_gpus() -> list[str]:
    named = os.environ.get(GPUS)
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip() not in ("", "-1")]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    gpus = [line for line in listed.stdout.splitlines() if line.startswith("GPU ")]
    return [str(number) for number in range(len(gpus))]
