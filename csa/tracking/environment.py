"""What a record says of the software that made it."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "csa", "torch", "torchvision", "numpy", "lightning-fabric",
    "hydra-core", "omegaconf", "mlflow", "pandas", "scikit-learn",
)  # fmt: skip


def software() -> dict[str, Any]:
    """Versions, and the git revision of the checkout this package runs from (None outside one)."""
    return {"python": platform.python_version(), "packages": _versions(), **_revision()}


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _revision() -> dict[str, Any]:
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return {"git_revision": None, "git_dirty": None}
    revision = _git(root, "rev-parse", "HEAD")
    changes = _git(root, "status", "--porcelain", "--untracked-files=no")
    return {"git_revision": revision or None, "git_dirty": None if changes is None else bool(changes)}


def _git(root: Path, *words: str) -> str | None:
    try:
        answer = subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()
