"""Where the configuration tree and the sweep files lie, what is shipped in it, and what a named file holds."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parent.parent


def conf_dir() -> Path:
    """The Hydra tree: inside an installed wheel, or beside the package in a checkout."""
    return _inside_or_beside("conf")


def sweeps_dir() -> Path:
    """One file for each table or figure, found by ``-cn``; the folder may not exist yet."""
    return _inside_or_beside("sweeps")


@cache
def shipped(group: str, option: str) -> Mapping[str, Any] | None:
    """The block of one of our own options, references as they are written; None where there is no such option.

    As its file and the option that it starts from have it (``lws`` from ``crt``): nothing is composed.
    """
    from omegaconf import OmegaConf

    path = conf_dir() / group / f"{option}.yaml"
    if path not in conf_dir().glob(f"{group}/*.yaml"):
        return None
    content: Any = OmegaConf.to_container(OmegaConf.load(path))
    starts = [one for one in content.pop("defaults", []) if isinstance(one, str) and one != "_self_"]
    base = shipped(group, starts[0]) if starts else None
    merged: Any = OmegaConf.to_container(OmegaConf.merge(base or {}, content.get(group, content)))
    return merged  # type: ignore[no-any-return]


def weights_file(weights: str | None) -> Path | None:
    """The file that ``backbone.weights`` names; None where it is a name of the library's, or null."""
    if weights is None or not ("/" in weights or weights.endswith((".pt", ".pth", ".bin", ".safetensors"))):
        return None
    return Path(weights).expanduser()


def content_of(file: Path | None) -> str | None:
    """SHA-256 of a file, in few digits; None where there is none."""
    if file is None or not file.is_file():
        return None
    status = file.stat()
    return _content_of(file, status.st_mtime_ns, status.st_ctime_ns, status.st_size)


@cache
def _content_of(file: Path, *_stamp: int) -> str:
    with file.open("rb") as stream:
        return f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()[:16]}"


def _inside_or_beside(name: str) -> Path:
    inside = PACKAGE / name
    return inside if inside.is_dir() else PACKAGE.parent / name
