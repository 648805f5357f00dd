"""Whether this machine has the memory that a run needs, by what is known of its data beforehand. Imports no torch."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING

from csa.config.faults import Fault
from csa.config.host import GIGABYTE, process_world, total_memory, visible_gpus
from csa.data.long_tail import wanted_counts

if TYPE_CHECKING:
    from csa.config.schema import Config
    from csa.data.sources.source import Preview

LEAST_PROCESS_BYTES, LEAST_WORKER_BYTES, LEAST_PIXEL_BYTES = 0.3e9, 0.05e9, 50.0
"""Of Python, torch and csa; of a process that decodes images; of a pixel of a step in a network nobody has measured."""
FLOAT_BYTES = 4.0


def memory_fault(config: Config, known: Preview) -> Fault | None:
    """Whether the run cannot have the memory that it needs, by what is known of its data.

    Estimated from below: what is refused cannot run here; what is not may still run out of memory.
    """
    total = total_memory()
    if least_memory(config, known) <= total:
        return None
    needs, of_steps = memory_needs(config, known)
    if config.runtime.device in ("cpu", "mps") or not visible_gpus():
        needs |= of_steps
    needed = LEAST_PROCESS_BYTES + sum(needs.values())
    key, *others = sorted(needs, key=lambda name: -needs[name])
    allowed = " or ".join([f"less of {key}", *(name for name in others if needs[name] > total / 10)])
    problem = f"the run needs {needed / GIGABYTE:,.1f} GB of memory or more, and there are {total / GIGABYTE:,.1f} GB"
    return Fault(key, attrgetter(key)(config), problem, allowed) if needed > total else None


def least_memory(config: Config, known: Preview) -> float:
    """Bytes that a run takes at least, on whatever device."""
    return LEAST_PROCESS_BYTES + sum(sum(needs.values()) for needs in memory_needs(config, known))


def memory_needs(config: Config, known: Preview) -> tuple[dict[str, float], dict[str, float]]:
    """Bytes beside the process itself by the keys that decide them: on the host; where steps are computed."""
    channels, height, width = known.image_shape
    protocol, padding = config.protocol, 2 * config.protocol.crop_padding
    pixels, padded = height * width, (height + padding) * (width + padding)
    taken = sum(wanted_counts(config.dataset, known.class_sizes))
    if known.in_memory:
        images = "dataset.image_size" if hasattr(config.dataset, "image_size") else "dataset.name"
        pool = channels * pixels * (sum(known.class_sizes) + taken)
        needs: dict[str, float] = {images: pool, "protocol.crop_padding": channels * taken * (padded - pixels)}
    else:
        needs = {"runtime.workers": LEAST_WORKER_BYTES * (config.runtime.workers or 0)}
    pixel_bytes = LEAST_PIXEL_BYTES if config.backbone.pixel_bytes is None else config.backbone.pixel_bytes
    step = min(protocol.batch_size // process_world().size, taken) * config.method.passes()
    of_steps = {"protocol.batch_size": step * pixels * pixel_bytes / (1 if protocol.precision == "fp32" else 2)}
    for key, number in config.method.kept_images(protocol).items():
        of_steps[key] = of_steps.get(key, 0) + FLOAT_BYTES * number * (channels + 1) * pixels
    return needs, of_steps
