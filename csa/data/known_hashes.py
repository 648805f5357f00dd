"""The hash of a split without reading the data again, so that a sweep can be planned in an instant."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from csa.data.build import load_split, source_of

if TYPE_CHECKING:
    from csa.config.schema import DatasetConfig

# Raised when a change of this package changes what a split holds.
SPLIT_VERSION = 3


def split_hash(config: DatasetConfig, data_dir: str | Path, download: bool, cache_dir: str | Path) -> str:
    """``load_split(...).hash``, remembered in ``<cache_dir>/splits.json``.

    The memory is trusted as long as the configuration is the same and the data's files keep path,
    size and time of change. Raises ``UserError`` as ``load_split`` does.
    """
    memory = Path(cache_dir).expanduser() / "splits.json"
    key = fingerprint(config, data_dir)
    known = _read(memory)
    if key not in known:
        value = load_split(config, data_dir, download).hash
        key = fingerprint(config, data_dir)  # a download has brought the files only now
        _write(memory, {**_read(memory), key: value})
        return value
    return known[key]


def remembered(config: DatasetConfig, data_dir: str | Path, cache_dir: str | Path) -> str | None:
    """What ``split_hash`` has found before, without reading the data."""
    return _read(Path(cache_dir).expanduser() / "splits.json").get(fingerprint(config, data_dir))


def fingerprint(config: DatasetConfig, data_dir: str | Path) -> str:
    """Hash of the configuration and of path, size and mtime of each file it reads."""
    files = source_of(config).files(config, Path(data_dir).expanduser())
    stamps = [(str(file.resolve()), stat.st_size, stat.st_mtime_ns) for file in files for stat in [file.stat()]]
    told = json.dumps([SPLIT_VERSION, asdict(config), stamps], sort_keys=True, default=str)
    return hashlib.sha256(told.encode()).hexdigest()


def _read(memory: Path) -> dict[str, str]:
    """What is remembered; a damaged file is as good as none."""
    try:
        known = json.loads(memory.read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _write(memory: Path, known: dict[str, str]) -> None:
    """Whole or not at all. Of two writers at once the last wins, and the other's hash is computed again."""
    memory.parent.mkdir(parents=True, exist_ok=True)
    draft = memory.with_name(f"{memory.name}.{uuid4().hex}")
    draft.write_text(json.dumps(known, indent=1, sort_keys=True))
    draft.replace(memory)
