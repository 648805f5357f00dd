"""What this machine cannot do for a run: no CUDA device, an output folder that cannot be written."""

from __future__ import annotations

import os
from pathlib import Path

from csa.config.faults import Fault


def device_fault(device: str, step_mode: str) -> Fault | None:
    """Imports torch only where a CUDA device is asked for."""
    if device != "cuda" and step_mode != "graph":
        return None
    import torch

    problem = "this machine has no CUDA device that torch can use"
    if device == "cuda" and not torch.cuda.is_available():
        return Fault("runtime.device", device, problem, "auto, cpu")
    if step_mode == "graph" and (device == "cpu" or not torch.cuda.is_available()):
        return Fault("runtime.step_mode", step_mode, problem if device != "cpu" else "runtime.device=cpu has no graphs",
                     "auto, eager, compiled")  # fmt: skip
    return None


def output_fault(output_root: str) -> Fault | None:
    """Of the folder, or of the nearest existing one above it: nothing is created to find out."""
    folder = Path(output_root).expanduser().absolute()
    try:
        while not folder.exists():
            folder = folder.parent
        if not folder.is_dir():
            return Fault("output_root", output_root, f"{folder} is not a folder", "a folder that can be written")
        # Root passes every access check, but not a file system that is mounted read-only.
        read_only = os.statvfs(folder).f_flag & os.ST_RDONLY
        if not read_only and os.access(folder, os.W_OK | os.X_OK):
            return None
    except OSError as error:
        return Fault("output_root", output_root, f"cannot be used ({error.strerror})", "a folder that can be written")
    return Fault("output_root", output_root, f"{folder} cannot be written to", "a folder that can be written")
