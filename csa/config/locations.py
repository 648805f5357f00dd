"""Where the configuration tree and the sweep files lie."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent


def conf_dir() -> Path:
    """The Hydra tree: inside an installed wheel, or beside the package in a checkout."""
    return _inside_or_beside("conf")


def sweeps_dir() -> Path:
    """One file for each table or figure, found by ``-cn``; the folder may not exist yet."""
    return _inside_or_beside("sweeps")


def _inside_or_beside(name: str) -> Path:
    inside = PACKAGE / name
    return inside if inside.is_dir() else PACKAGE.parent / name
