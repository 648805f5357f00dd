"""How this process was started: beside others that train the same run, in a slot of a sweep. Imports no torch."""

from __future__ import annotations

import os
from dataclasses import dataclass

SLOT_THREADS = "CSA_SLOT_THREADS"
"""The environment variable by which a sweep tells a run how many processor threads its slot has."""


@dataclass(frozen=True)
class Processes:
    """rank: of this process among ``count``; local_rank, local_count: the same among those of this machine."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    local_count: int = 1


def started_together() -> Processes:
    """What the launcher says in the environment; a process that nobody launched is alone."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return Processes(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")))
    tasks = int(os.environ.get("SLURM_NTASKS") or 1)
    if tasks > 1 and "SLURM_STEP_ID" in os.environ:
        nodes = int(os.environ.get("SLURM_NNODES") or 1)
        rank, local = (int(os.environ[name]) for name in ("SLURM_PROCID", "SLURM_LOCALID"))
        return Processes(rank, tasks, local, tasks // nodes)
    return Processes()


def slot_threads() -> int | None:
    """Processor threads of the slot that a sweep has started this process in; None where it was started otherwise."""
    told = os.environ.get(SLOT_THREADS)
    return None if told is None else int(told)
