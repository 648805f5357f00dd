"""Checkpoints that survive being interrupted at any byte, and finished stages that other runs start from.

A checkpoint is written to a temporary file, forced to the disk and renamed; the one before it is
kept beside it until the next is whole. Reading falls back to that one when the newest is damaged:
a SHA-256 of the archive stands at its end, because torch reads a flipped byte without complaint.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from csa.config.faults import Fault, UserError
from csa.config.host import cores
from csa.tracking.files import write_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from csa.config.schema import Config
    from csa.methods.method import Method
    from csa.training.machine import Machine

FORMAT = 1
DIGEST_BYTES = hashlib.sha256().digest_size


class DamagedCheckpointError(Exception):
    """The file is not a whole checkpoint of this format."""


def save(path: Path, state: dict[str, Any]) -> None:
    """Replace the checkpoint at ``path``; the one before it stays as ``<name>.previous``."""
    _write(path, state, keep=previous(path))


def share(path: Path, state: dict[str, Any]) -> None:
    """Put a state where any run may do so, and any may read it; of several that do so at once the last one's stays."""
    _write(path, state, keep=None)


def _write(path: Path, state: dict[str, Any], keep: Path | None) -> None:
    archive = BytesIO()
    torch.save({"format": FORMAT, **state}, archive)
    write_bytes(path, archive.getbuffer(), hashlib.sha256(archive.getbuffer()).digest(), keep=keep)
    _sync_folder(path.parent)


def load(path: Path) -> dict[str, Any]:
    """Read one checkpoint onto the processor.

    Raises:
        DamagedCheckpointError: cut, altered, or of another format.
        FileNotFoundError: there is none.
    """
    content = path.read_bytes()
    archive, digest = content[:-DIGEST_BYTES], content[-DIGEST_BYTES:]
    if hashlib.sha256(archive).digest() != digest:
        raise DamagedCheckpointError(f"{path}: its content does not have the SHA-256 written at its end")
    try:
        state: dict[str, Any] = torch.load(BytesIO(archive), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises what its reader happens to; the digest says it is not damage
        raise DamagedCheckpointError(f"{path}: {error}") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise DamagedCheckpointError(f"{path}: not a checkpoint of format {FORMAT}")
    return state


def load_newest(path: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """The newest whole checkpoint, or None, and what was wrong with those passed over."""
    problems: list[str] = []
    for candidate in (path, previous(path)):
        try:
            return load(candidate), problems
        except FileNotFoundError:
            continue
        except DamagedCheckpointError as damage:
            problems.append(str(damage))
    return None, problems


def last_good(path: Path) -> str:
    """What there is to go on from, in words."""
    last, _ = load_newest(path)
    return f"the last good checkpoint is of epoch {last['at']['epoch']}" if last else "there is no checkpoint yet"


def previous(path: Path) -> Path:
    return path.with_name(path.name + ".previous")


def _sync_folder(folder: Path) -> None:
    """Make the renames themselves durable; not every file system lets a folder be opened for it."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


SETTINGS = {"precision": "protocol.precision"} | {
    key: f"runtime.{key}" for key in ("threads", "device", "step_mode", "sync_batch_norm")
}
"""Of what decides the last bits, what the configuration asks for; the rest is as the machine has it."""


def arithmetic(machine: Machine, config: Config) -> dict[str, Any]:
    """What decides the last bits of a run."""
    several = {"processes": machine.group.size, "sync_batch_norm": config.runtime.sync_batch_norm}
    return {
        "threads": machine.threads,
        "precision": machine.precision,
        "device": machine.device.type,
        "step_mode": "compiled" if machine.step_mode == "compiled" else "eager",  # a graph has eager's bits
        **machine.kernels(),
        **({} if machine.group.alone else several),
    }


def refuse_other_arithmetic(state: dict[str, Any], machine: Machine, config: Config) -> None:
    """With another arithmetic the last bits are others: the run would not be the same run.

    What a checkpoint from before a key was added does not say is taken to be the same.

    Raises:
        UserError: the checkpoint was written under another arithmetic.
    """
    alone = {"processes": 1, "sync_batch_norm": False}
    asked, known = alone | arithmetic(machine, config), {**alone, **state}
    others = [key for key, value in asked.items() if known.get(key, value) != value]
    remedy = "continue it with that, or start over with rerun=true"
    faults = [
        Fault(SETTINGS.get(key, key), asked[key], f"this run was started with {known[key]}; {remedy}") for key in others
    ]
    if faults:
        raise UserError(*faults)


# --- finished stages that other runs start from ---------------------------------------------


COMMON = ("results_version", "dataset", "backbone", "protocol", "seed", "variant")


class SharedStages:
    """Artefacts ``<folder>/<stage fingerprint>.pt``: the method's state and what training said. crt takes one of ce.

    A stage's identity is what it trains (the method's word), on what data, under which protocol, seed and arithmetic,
    with how many threads: only then is taking it bit-identical to training it again.

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
            share(path, {"method": method.state_dict(), "history": history})

    def load(self, index: int, method: Method) -> dict[str, Any] | None:
        """Put a kept state into the method; its history, or None where there is no whole one."""
        path = self._path(index, method)
        if path is None or self._anew:
            return None
        try:
            state = load(path)
        except FileNotFoundError:
            return None
        except DamagedCheckpointError:
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
