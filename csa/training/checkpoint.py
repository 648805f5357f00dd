"""Checkpoints that survive being interrupted at any byte.

A checkpoint is written to a temporary file, forced to the disk and renamed; the one before it is
kept beside it until the next is whole. Reading falls back to that one when the newest is damaged:
a SHA-256 of the archive stands at its end, because torch reads a flipped byte without complaint.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from csa.config.faults import Fault, UserError
from csa.tracking.files import write_bytes

if TYPE_CHECKING:
    from csa.config.schema import Config
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
