"""What this machine has for a run, what it cannot do, and of which world of processes this one is. Imports no torch."""

from __future__ import annotations

import math
import os
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from csa.config.faults import Fault
from csa.config.locations import weights_file

if TYPE_CHECKING:
    from collections.abc import Iterator

    from csa.config.schema import BackboneConfig, ProtocolConfig, RuntimeConfig

GPUS = "CUDA_VISIBLE_DEVICES"
SLOT_THREADS = "CSA_SLOT_THREADS"
"""The environment variable by which a sweep tells a run how many processor threads its slot has."""
GIGABYTE = 1e9
LOOK_SECONDS = 0.5
SLACK = 0.25
"""Of a core: so much of all may be at work while one more still counts as idle."""

SYSTEM = Path("/")
"""Where Linux tells of itself; macOS tells nothing there."""


# --- processor cores and GPUs ---------------------------------------------------------------


def cores() -> int:
    """Processor cores that this process may use, within the quota of its container."""
    return max(1, math.floor(min(len(_permitted()), _quota())))


def _permitted() -> set[int]:
    """Numbers of the cores that this process may run on; macOS knows no such bounds."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def _quota() -> float:
    """Cores that the container grants, as either version of control groups says it."""
    groups = SYSTEM / "sys/fs/cgroup"
    with suppress(OSError, ValueError):  # there is none, or its limit is called "max"
        granted, period = map(int, (groups / "cpu.max").read_text().split())
        return granted / period
    with suppress(OSError, ValueError):
        granted = int((groups / "cpu/cpu.cfs_quota_us").read_text())
        return granted / int((groups / "cpu/cpu.cfs_period_us").read_text()) if granted > 0 else math.inf
    return math.inf


def idle_cores(seconds: float = LOOK_SECONDS) -> int:
    """Of these, how many had nothing to do during a look of so many seconds; at least one."""
    before = _processor_times()
    time.sleep(seconds if before else 0)
    shares = [
        (idle - before[core][0]) / max(total - before[core][1], 1)
        for core, (idle, total) in _processor_times().items()
        if core in before
    ]
    return max(1, min(cores(), math.floor(sum(shares) + SLACK))) if shares else cores()


def _processor_times() -> dict[int, tuple[int, int]]:
    """Of each core that this process may use, ticks so far: idle and all."""
    times, permitted = {}, _permitted()
    with suppress(OSError):
        for line in (SYSTEM / "proc/stat").read_text().splitlines():
            name, *ticks = line.split()
            if name.startswith("cpu") and name != "cpu" and int(name[3:]) in permitted:
                user, nice, system, idle, waiting, *others = map(int, ticks[:8])
                times[int(name[3:])] = idle + waiting, user + nice + system + idle + waiting + sum(others)
    return times


def visible_gpus() -> list[str]:
    """As CUDA_VISIBLE_DEVICES names them. Found out without torch."""
    named = os.environ.get(GPUS)
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip() not in ("", "-1")]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    gpus = [line for line in listed.stdout.splitlines() if line.startswith("GPU ")]
    return [str(number) for number in range(len(gpus))]


# --- processes ------------------------------------------------------------------------------


@dataclass(frozen=True)
class World:
    """rank: of this process among ``size``; local_rank, local_size: the same among those of this machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1


def process_world() -> World:
    """What the launcher says in the environment; a process that nobody launched is alone."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return World(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")))
    tasks = int(os.environ.get("SLURM_NTASKS") or 1)
    if tasks > 1 and "SLURM_STEP_ID" in os.environ:
        nodes = int(os.environ.get("SLURM_NNODES") or 1)
        rank, local = (int(os.environ[name]) for name in ("SLURM_PROCID", "SLURM_LOCALID"))
        return World(rank, tasks, local, tasks // nodes)
    return World()


def slot_threads() -> int | None:
    """Processor threads of the slot that a sweep has started this process in; None where it was started otherwise."""
    given = os.environ.get(SLOT_THREADS)
    return None if given is None else int(given)


# --- memory ---------------------------------------------------------------------------------


def free_memory() -> float:
    """Bytes that can be had without swapping, within the limit of the container; infinite where nobody tells."""
    available = _numbers("proc/meminfo").get("MemAvailable", math.inf) * 1024
    return max(0, min([available, *(allowed - used for allowed, used in _memory_limits())]))


def total_memory() -> float:
    """Bytes that there are, within the limit of the container; infinite where nobody tells."""
    return min([_numbers("proc/meminfo").get("MemTotal", math.inf) * 1024, *(most for most, _ in _memory_limits())])


def _memory_limits() -> Iterator[tuple[int, int]]:
    """Of the container, as either version of control groups says it: the bytes it may use and those it uses."""
    for limit, use, used in (
        ("memory.max", "memory.stat", "anon"),
        ("memory/memory.limit_in_bytes", "memory/memory.stat", "total_rss"),
    ):
        with suppress(OSError, ValueError):  # there is none, or its limit is called "max"
            allowed = int((SYSTEM / "sys/fs/cgroup" / limit).read_text())
            yield allowed, _numbers(f"sys/fs/cgroup/{use}").get(used, 0)


def _numbers(path: str) -> dict[str, int]:
    """Of a file of the system with lines ``name: number`` or ``name number``."""
    with suppress(OSError):
        rows = (line.replace(":", " ").split() for line in (SYSTEM / path).read_text().splitlines())
        return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdecimal()}
    return {}


# --- what it cannot do ----------------------------------------------------------------------


def device_faults(runtime: RuntimeConfig, protocol: ProtocolConfig) -> list[Fault]:
    """Imports torch only where a GPU is asked for."""
    device, step_mode = runtime.device, runtime.step_mode
    if step_mode == "graph" and device in ("cpu", "mps"):
        problem = f"runtime.device={device} has no graphs"
        return [Fault("runtime.step_mode", step_mode, problem, "auto, eager, compiled")]
    if device == "mps":
        return _apple_faults(protocol)
    if device != "cuda" and step_mode != "graph":
        return []
    import torch

    if torch.cuda.is_available():
        return []
    problem = "this machine has no CUDA device that torch can use"
    if device == "cuda":
        return [Fault("runtime.device", device, problem, "auto, cpu")]
    return [Fault("runtime.step_mode", step_mode, problem, "auto, eager, compiled")]


def _apple_faults(protocol: ProtocolConfig) -> list[Fault]:
    if protocol.precision == "bf16":
        return [Fault("protocol.precision", "bf16", "runtime.device=mps computes in fp32", "auto, fp32")]
    import torch

    there = torch.backends.mps.is_available()
    return [] if there else [Fault("runtime.device", "mps", "torch sees no Apple GPU here", "auto, cpu")]


def weights_faults(backbone: BackboneConfig) -> list[Fault]:
    """Whether a file of weights is there."""
    weights = getattr(backbone, "weights", None)
    file = weights_file(weights)
    if file is None or file.is_file():
        return []
    problem = "is a folder" if file.is_dir() else "there is no such file"
    allowed = "a file of weights, a name that the library has for some, or null"
    return [Fault("backbone.weights", weights, problem, allowed)]


def output_faults(output_root: str) -> list[Fault]:
    """Of the folder, or of the nearest existing one above it: nothing is created to find out."""
    problem = unwritable(Path(output_root).expanduser().absolute())
    return [Fault("output_root", output_root, problem, "a folder that can be written")] if problem else []


def unwritable(folder: Path) -> str:
    """Why nothing can be written into a folder, or be made in the nearest one above it that exists."""
    try:
        while not folder.exists():
            folder = folder.parent
        if not folder.is_dir():
            return f"{folder} is not a folder"
        # Root passes every access check, but not a file system that is mounted read-only.
        read_only = os.statvfs(folder).f_flag & os.ST_RDONLY
        writable = not read_only and os.access(folder, os.W_OK | os.X_OK)
    except OSError as error:
        return f"cannot be used ({error.strerror})"
    return "" if writable else f"{folder} cannot be written to"
