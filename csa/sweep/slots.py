"""The slots of a sweep: what of this machine each run gets, threads and GPU. Found out without torch."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from csa.config.host import cores, free_memory
from csa.console import counting
from csa.data.dataset import preview

if TYPE_CHECKING:
    from collections.abc import Sequence

    from csa.config.schema import Config, SweepConfig

PROCESS_BYTES = 0.75e9  # Python, torch and csa
BYTES_OF_A_PIXEL = 6000
"""At most, of the images of a step: what ResNet-32 keeps of both branches of CSA for the way back, in fp32."""

GPUS = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Slot:
    """threads: of the processor; gpu: as CUDA_VISIBLE_DEVICES names it, None without one."""

    number: int
    threads: int
    gpu: str | None


def slots(sweep: SweepConfig, configs: Sequence[Config]) -> list[Slot]:
    """The slots of a sweep for runs of these configurations, of which there is at least one.

    ``sweep.slots``, else ``runtime.jobs_per_gpu`` for each GPU; without a GPU as many as there are cores for them,
    as far as the memory that is free goes round and there are runs. They share the cores.
    """
    runtime = configs[0].runtime
    gpus = [] if runtime.device == "cpu" else visible_gpus()
    if gpus:
        count = sweep.slots or len(gpus) * runtime.jobs_per_gpu
    else:
        memory = free_memory() // memory_of_a_run(configs)
        count = sweep.slots or int(max(1, min(cores() // (runtime.threads or 1), memory, len(configs))))
    threads = runtime.threads or max(1, cores() // count)
    return [Slot(number, threads, gpus[number % len(gpus)] if gpus else None) for number in range(count)]


def memory_of_a_run(configs: Sequence[Config]) -> float:
    """Bytes that the largest of these takes on the processor, roughly and rather more than less."""
    different = {repr((config.dataset, config.data_dir, config.protocol.batch_size)): config for config in configs}
    return max(map(_memory, different.values()))


def _memory(config: Config) -> float:
    """The process, the data set and what is taken of it, the activations of a step."""
    known = preview(config.dataset, config.data_dir)
    if known is None:
        return PROCESS_BYTES
    channels, height, width = known.image_shape
    images = 2 * sum(known.class_sizes) * channels * height * width
    return PROCESS_BYTES + images + BYTES_OF_A_PIXEL * config.protocol.batch_size * height * width


def where(places: Sequence[Slot], configs: Sequence[Config]) -> str:
    """``2 at once, 1 thread each``, and what they take of the memory, where that may be what limits them."""
    each = counting(places[0].threads, "thread")
    told = f"{len(places)} at once, {each} each" if len(places) > 1 else f"one at a time, {each}"
    if places[0].gpu is None:
        told += f", about {memory_of_a_run(configs) / 1e9:.1f} GB of memory each; {free_memory() / 1e9:.1f} GB are free"
    return told


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
