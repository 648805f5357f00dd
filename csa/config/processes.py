"""Several processes that train one run together, as torchrun or Slurm has started them. Imports no torch."""

from __future__ import annotations

import os
from dataclasses import dataclass


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
