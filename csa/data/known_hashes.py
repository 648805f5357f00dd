"""The hash of a split without reading the data again, so that a sweep can be planned in an instant."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from csa.data.build import load_split, source_of
from csa.data.cache_folder import read_memory, write_memory

if TYPE_CHECKING:
    from csa.config.schema import DatasetConfig

# Raised when a change of this package changes what a split holds.
SPLIT_VERSION = 3


def split_hash(config: DatasetConfig, data_dir: str | Path, download: bool, cache_dir: str | Path) -> str:
    """``load_split(...).hash``, remembered in ``<cache_dir>/splits.json``.

    The memory is trusted as long as the configuration is the same and the data's files keep their stamps. Raises
    ``UserError`` as ``load_split`` does.
    """
    known = remembered(config, data_dir, cache_dir)
    if known is None:
        known = load_split(config, data_dir, download).hash
        key = fingerprint(config, data_dir)  # a download may have brought the files only now
        write_memory(_memory(cache_dir), {**read_memory(_memory(cache_dir)), key: known}, indent=1, sort_keys=True)
    return known


def remembered(config: DatasetConfig, data_dir: str | Path, cache_dir: str | Path) -> str | None:
    """What ``split_hash`` has found before, without reading the data."""
    try:
        return read_memory(_memory(cache_dir)).get(fingerprint(config, data_dir))
    except OSError:  # of files that cannot be reached nothing is known
        return None


def fingerprint(config: DatasetConfig, data_dir: str | Path) -> str:
    """Hash of the configuration and of path, size, times of change and inode of each file that it reads."""
    files = source_of(config).files(config, Path(data_dir).expanduser())
    stamps = [
        (str(file.resolve()), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)
        for file in files
        for stat in [file.stat()]
    ]
    told = json.dumps([SPLIT_VERSION, asdict(config), stamps], sort_keys=True, default=str)
    return hashlib.sha256(told.encode()).hexdigest()


def _memory(cache_dir: str | Path) -> Path:
    return Path(cache_dir).expanduser() / "splits.json"
