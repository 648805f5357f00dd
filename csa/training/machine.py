"""Where a run computes: device, arithmetic and threads, settled once and written into the record."""

from __future__ import annotations

import ctypes
import logging
import platform
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy

from csa.config.faults import Fault, UserError
from csa.config.host import World, cores, device_faults, idle_cores, process_world, slot_threads
from csa.data.batch import Shard
from csa.training.distributed import ProcessGroup, meet

if TYPE_CHECKING:
    from collections.abc import Iterator

    from csa.config.schema import ProtocolConfig, RuntimeConfig


@dataclass(frozen=True)
class Machine:
    """precision: the arithmetic in use (the protocol's ``auto`` resolved); threads: torch's, on the processor.

    workers: processes that decode images, where these stay in their files. group: with the run's other processes.
    step_mode: how a step is to be launched; ``graph`` where it can be, see ``training.launching``.
    """

    device: torch.device
    precision: Literal["fp32", "bf16"]
    threads: int
    workers: int
    fabric: Fabric
    group: ProcessGroup
    step_mode: Literal["eager", "compiled", "graph"]

    def autocast(self) -> AbstractContextManager[Any]:
        return self.fabric.autocast()

    def with_threads(self, threads: int) -> Machine:
        """The same, in force at once, with another number of threads."""
        torch.set_num_threads(threads)
        return replace(self, threads=threads)

    def kernels(self) -> dict[str, Any]:
        """What computes: versions of libraries, and of the hardware what they choose their code by."""
        versions = {"torch": str(torch.__version__)}
        if self.device.type == "cuda":
            cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
            return versions | {"gpu": hardware_name(self.device), "cudnn": cudnn}
        return versions | {"instructions": instructions()}

    def describe(self) -> dict[str, Any]:
        """What the record says of the hardware."""
        return {
            "device": self.device.type,
            "hardware": hardware_name(self.device),
            "precision": self.precision,
            "threads": self.threads,
            **({} if self.group.alone else {"processes": self.group.size}),
        }


def choose(runtime: RuntimeConfig, protocol: ProtocolConfig, kept_threads: int | None = None) -> Machine:
    """Settle device, precision and threads, and meet the other processes of the run, if there are any.

    kept_threads: of a run that is continued; with another number its last bits would change.

    Raises:
        UserError: a GPU is asked for and there is none.
    """
    if faults := device_faults(runtime, protocol):
        raise UserError(*faults)
    world = process_world()
    device = _device(runtime, world)
    threads = runtime.threads or kept_threads or _threads(device, world)
    torch.set_num_threads(threads)
    _keep_freed_memory()
    # Bit-exact resuming needs the same algorithm at every start, not the fastest one found by timing.
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    # TF32, torch's default in convolutions, has ten bits of fp32's 23. By these flags, not ``fp32_precision``: once
    # that has been set, reading the flags, which torch itself does, is an error.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it announces its precision at every start
    precision = _precision(protocol.precision, device)
    fabric = Fabric(
        accelerator=device.type,
        devices=world.local_size,
        num_nodes=world.size // world.local_size,
        strategy=_strategy(device, world),
        precision="bf16-mixed" if precision == "bf16" else "32-true",
    )
    if world.size > 1:
        meet(fabric)
    workers = threads if runtime.workers is None else runtime.workers
    group = ProcessGroup(Shard(world.rank, world.size))
    return Machine(device, precision, threads, workers, fabric, group, _step_mode(runtime, device, group))


def _threads(device: torch.device, world: World) -> int:
    """Those of the sweep's slot; else the idle cores, as far as they compute alone; else an equal part of all cores.

    A thread on a core that does something else holds up the others at every layer: two threads on two cores, one of
    them busy, were measured at a third of the speed of one thread.
    """
    if (of_slot := slot_threads()) is not None:
        return of_slot
    if device.type == "cpu" and world.size == 1:
        return idle_cores()
    return max(1, cores() // world.local_size)


@contextmanager
def telling_what_mps_lacks(device: torch.device) -> Iterator[None]:
    """Turns what torch raises for an operation or a type that it has not on an Apple GPU into ``UserError``."""
    try:
        yield
    except (NotImplementedError, TypeError) as error:
        if device.type != "mps" or "MPS" not in str(error):
            raise
        reason, how = str(error).split(". ")[0], "PYTORCH_ENABLE_MPS_FALLBACK=1 computes the operation on the processor"
        raise UserError(
            Fault("runtime.device", "mps", f"torch lacks something: {reason} ({how})", "auto, cpu")
        ) from error


def _keep_freed_memory() -> None:
    """Let glibc keep what a step has freed for the next one.

    It would give the kernel most of it back, and then fault in some ten thousand zeroed pages at every step.
    """
    trim_threshold, map_threshold = -1, -3  # malloc.h: M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
    with suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(map_threshold, 2**25)  # bytes; the most that mallopt(3) names


def _strategy(device: torch.device, world: World) -> DDPStrategy | str:
    """Tensors of the host go by gloo on every machine, so that hosts can settle things while their devices work."""
    if world.size == 1:
        return "auto"
    return DDPStrategy(process_group_backend="cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")


def _device(runtime: RuntimeConfig, world: World) -> torch.device:
    if runtime.device == "mps":
        if world.size > 1:
            raise UserError(Fault("runtime.device", "mps", "is for a run of one process", "auto, cpu"))
        return torch.device("mps")
    if runtime.device != "cpu" and torch.cuda.is_available():
        return torch.device("cuda", world.local_rank) if world.size > 1 else torch.device("cuda")
    if runtime.sync_batch_norm and world.size > 1:
        raise UserError(Fault("runtime.sync_batch_norm", "true", "torch synchronises batch-norm on GPUs only", "false"))
    return torch.device("cpu")


def _precision(requested: str, device: torch.device) -> Literal["fp32", "bf16"]:
    if requested == "auto":
        return "bf16" if _has_bf16(device) else "fp32"
    return "bf16" if requested == "bf16" else "fp32"


def _step_mode(
    runtime: RuntimeConfig, device: torch.device, group: ProcessGroup
) -> Literal["eager", "compiled", "graph"]:
    possible = device.type == "cuda" and group.alone
    if runtime.step_mode == "auto":
        return "graph" if possible else "eager"
    if runtime.step_mode == "graph" and not possible:
        problem = "is for a run of one process on a CUDA device"
        raise UserError(Fault("runtime.step_mode", "graph", problem, allowed="auto, eager, compiled"))
    return runtime.step_mode


def _has_bf16(device: torch.device) -> bool:
    """Whether bf16 is done in hardware; emulated, it would be slower than fp32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and any(of_bf16 in instructions() for of_bf16 in ("AVX512_BF16", "AMX"))


def instructions() -> str:
    """What the processor has of what torch chooses its code by, as ``AVX512 AVX512_BF16 AMX``."""
    more = {"AVX512_BF16": torch.cpu._is_avx512_bf16_supported(), "AMX": torch.cpu._is_amx_tile_supported()}
    return " ".join([torch.backends.cpu.get_cpu_capability(), *(name for name, has in more.items() if has)])


def hardware_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    names = (
        [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        if cpuinfo.exists()
        else []
    )
    return f"{names[0] if names else platform.processor() or platform.machine()}, {cores()} cores"
