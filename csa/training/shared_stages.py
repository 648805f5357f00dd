"""Finished stages that other methods start from: crt and its kind from a finished ce.

A stage's identity is what it trains (the method's word), on what data, under which protocol, seed
and arithmetic, with how many threads: only then is taking it bit-identical to training it again.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from csa.config.host import cores
from csa.training import checkpoint

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from csa.methods.method import Method
    from csa.training.machine import Machine

COMMON = ("results_version", "dataset", "backbone", "protocol", "seed", "variant")


class SharedStages:
    """Artefacts ``<folder>/<stage fingerprint>.pt``: the method's state and what training said.

    anew: a run that starts over takes nothing that is kept, and replaces it.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], machine: Machine, *, anew: bool = False) -> None:
        self._folder, self._anew = folder, anew
        self._common = {key: identity[key] for key in COMMON} | {
            "precision": machine.precision,
            "threads": machine.threads,
            "device": machine.device.type,
            "torch": torch.__version__,
            **({} if machine.group.alone else {"processes": machine.group.size}),
        }

    def holds(self, index: int, method: Method) -> bool:
        path = self._path(index, method)
        return path is not None and path.exists()

    def keep(self, index: int, method: Method, history: dict[str, Any]) -> None:
        """Keep the state at the end of a stage, unless it is kept already or nobody may use it."""
        path = self._path(index, method)
        if path is not None and (self._anew or not path.exists()):
            path.parent.mkdir(parents=True, exist_ok=True)
            checkpoint.share(path, {"method": method.state_dict(), "history": history})

    def load(self, index: int, method: Method) -> dict[str, Any] | None:
        """Put a kept state into the method; its history, or None where there is no whole one."""
        path = self._path(index, method)
        if path is None or self._anew:
            return None
        try:
            state = checkpoint.load(path)
        except FileNotFoundError:
            return None
        except checkpoint.DamagedCheckpointError:
            path.unlink(missing_ok=True)  # so that a whole one takes its place
            return None
        method.load_state_dict(state["method"])
        history: dict[str, Any] = state["history"]
        return history

    def _path(self, index: int, method: Method) -> Path | None:
        shared = method.stages[index].shared
        if shared is None:
            return None
        text = json.dumps({"stage": shared, **self._common}, sort_keys=True)
        return self._folder / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.pt"


def threads_of_first_stage(folder: Path, identity: Mapping[str, Any], machine: Machine, method: Method) -> int:
    """With how many threads the first stage was trained that the method can take; the machine's, if there is none."""
    numbers = (machine.threads, *range(1, cores() + 1))
    kept = (n for n in numbers if SharedStages(folder, identity, replace(machine, threads=n)).holds(0, method))
    return next(kept, machine.threads)
