"""Sweeps as a person starts them, watched and killed from outside."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tiny_words import TINY

from csa.tracking.lease import holder, is_held

LENET = (*(word for word in TINY if not word.startswith("tracking")), "backbone=lenet", "method=ce")
MOST_SECONDS = 600


def start(folder: Path, *words: str, module: str = "csa.run") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", module, *words],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    told, _ = process.communicate()
    return process.returncode, told


def wait_for(
    condition: Callable[[], object], process: subprocess.Popen[str] | None = None, pause: float = 0.05
) -> None:
    """process: what brings the condition about; its end is a failure."""
    deadline = time.monotonic() + MOST_SECONDS
    while not condition():
        assert process is None or process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(pause)


def folder_of(root: Path, text: str) -> Path | None:
    """The folder of the run whose configuration has this text."""
    for path in root.glob("outputs/*/*/*/config.yaml"):
        if text in path.read_text():
            return path.parent
    return None


def epochs(folder: Path | None) -> list[int]:
    path = None if folder is None else folder / "metrics.jsonl"
    if path is None or not path.exists():
        return []
    return [json.loads(line)["epoch"] for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def training(folder: Path | None, more_than: int = 0) -> int | None:
    """The process that trains the run, once it has got further than so many epochs."""
    if folder is None or not is_held(folder) or len(epochs(folder)) <= more_than or (folder / "result.json").exists():
        return None
    who = holder(folder)
    return None if who is None else who.pid
