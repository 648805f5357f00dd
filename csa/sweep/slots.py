"""The slots of a sweep: what of this machine each run gets, threads and GPU. Found out without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from csa.config.faults import Fault, UserError
from csa.config.host import GIGABYTE, cores, free_memory, total_memory, visible_gpus
from csa.console import counting
from csa.data.dataset import least_memory, preview

if TYPE_CHECKING:
    from collections.abc import Sequence

    from csa.config.schema import Config, SweepConfig

PROCESS_BYTES = 0.75e9  # Python, torch and csa
BYTES_OF_A_PIXEL = 3000
"""At most, of the images of a pass: what ResNet-32 keeps of it for the way back, in fp32."""
LEAST_PASSES = 2  # that a step is taken for: several experts keep more of one


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

    Raises:
        UserError: the runs that are asked for at once cannot have the memory that they need.
    """
    runtime = configs[0].runtime
    gpus = [] if runtime.device == "cpu" else visible_gpus()
    if gpus:
        count = sweep.slots or len(gpus) * runtime.jobs_per_gpu
    else:
        memory = free_memory() // memory_of_a_run(configs)
        count = sweep.slots or int(max(1, min(cores() // (runtime.threads or 1), memory, len(configs))))
        _refuse_too_many(min(count, len(configs)), configs)
    threads = runtime.threads or max(1, cores() // count)
    return [Slot(number, threads, gpus[number % len(gpus)] if gpus else None) for number in range(count)]


def _refuse_too_many(count: int, configs: Sequence[Config]) -> None:
    config, total = configs[0], total_memory()
    known = preview(config.dataset, config.data_dir)
    needed = least_memory(config, known) if count > 1 and known is not None else 0
    if count * needed > total:
        needed_gb, total_gb = count * needed / GIGABYTE, total / GIGABYTE
        problem = f"so many runs at once need {needed_gb:,.1f} GB of memory or more, and there are {total_gb:,.1f} GB"
        raise UserError(Fault("sweep.slots", count, problem, f"at most {max(1, int(total // needed))}"))


def memory_of_a_run(configs: Sequence[Config]) -> float:
    """Bytes that the largest of these takes on the processor, roughly and rather more than less."""
    different = {repr((config.dataset, config.data_dir, _images_of_a_step(config))): config for config in configs}
    return max(map(_memory, different.values()))


def _memory(config: Config) -> float:
    """The process, the data set and what is taken of it, the activations of a step."""
    known = preview(config.dataset, config.data_dir)
    if known is None:
        return PROCESS_BYTES
    channels, height, width = known.image_shape
    images = 2 * sum(known.class_sizes) * channels * height * width if known.in_memory else 0
    return PROCESS_BYTES + images + BYTES_OF_A_PIXEL * _images_of_a_step(config) * height * width


def _images_of_a_step(config: Config) -> int:
    return config.protocol.batch_size * max(LEAST_PASSES, config.method.passes())


def where(places: Sequence[Slot], configs: Sequence[Config]) -> str:
    """``2 at once, 1 thread each``, and what they take of the memory, where that may be what limits them."""
    each = counting(places[0].threads, "thread")
    told = f"{len(places)} at once, {each} each" if len(places) > 1 else f"one at a time, {each}"
    if places[0].gpu is None:
        each_gb, free_gb = memory_of_a_run(configs) / GIGABYTE, free_memory() / GIGABYTE
        told += f", about {each_gb:.1f} GB of memory each; {free_gb:.1f} GB are free"
    return told
