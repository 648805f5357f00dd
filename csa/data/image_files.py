"""Images that stay in their files until a batch asks for them. Imports no torch."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from functools import cached_property
from stat import S_ISREG
from typing import TYPE_CHECKING
from unicodedata import normalize

import numpy as np

from csa.data.cache_folder import content_hashes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

BYTES, CHANGED = 0, 1
"""Columns of ``stamps``."""


@dataclass(frozen=True)
class ImageFiles:
    """Files below ``root``; stands where an array of images uint8 [N, H, W, C] would.

    names: paths relative to ``root``, [N] of str. stamps: of each its length in bytes, the times (in ns) when its
    content and its inode changed, and the inode's number, int64 [N, 4]. side: of the square that a network takes.
    cover: what the shorter side is resized to before the centre square is cut, in evaluation. skip_unreadable: pass
    over damaged files and count them, instead of stopping. by_content: what a file holds is its identity, not its
    length alone. decoded_once: training reads a file of decoded squares of ``cover`` pixels. cache: the folder of
    what is computed once.
    """

    root: Path
    names: np.ndarray
    stamps: np.ndarray
    side: int
    cover: int
    skip_unreadable: bool
    by_content: bool
    decoded_once: bool
    cache: Path

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """As the array of what the network takes would have it."""
        return len(self.names), self.side, self.side, 3

    @property
    def decoded_shape(self) -> tuple[int, int, int, int]:
        """Of the array of the squares that are decoded once."""
        return len(self.names), self.cover, self.cover, 3

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, positions: np.ndarray | slice) -> ImageFiles:
        return replace(self, names=self.names[positions], stamps=self.stamps[positions])

    def path(self, position: int) -> Path:
        return self.root / str(self.names[position])

    def digest(self) -> bytes:
        """Of names, contents (or lengths) and input size: what stands for the pixels."""
        told = [f"{self.side} {self.cover} {'decoded once' if self.decoded_once else ''}"]
        told += [f"{name}\0{content}" for name, content in zip(self.names.tolist(), self._contents, strict=True)]
        return hashlib.sha256("\n".join(told).encode()).digest()

    def decoded_file(self, part: str) -> Path:
        """Where the decoded squares lie; another file when an image has changed, be it only in its time."""
        changed = b"" if self.by_content else self.stamps[:, CHANGED].tobytes()
        return self.cache / f"{hashlib.sha256(self.digest() + changed + part.encode()).hexdigest()[:16]}.uint8"

    @cached_property
    def _contents(self) -> Sequence[object]:
        if not self.by_content:
            return self.stamps[:, BYTES].tolist()  # type: ignore[no-any-return]
        return content_hashes(self.root, self.names.tolist(), self.stamps, self.cache)


@dataclass(frozen=True)
class FoundFiles:
    """Names [N] as the folders have them, stamps [N, 4]; and what is no file, by what is wrong with it."""

    names: list[str]
    stamps: np.ndarray
    missing: dict[str, list[str]]


def found_files(root: Path, names: Sequence[str]) -> FoundFiles:
    """A file whose name is there in another Unicode form is found."""
    found, stamps, folder = [], [], str(root)
    missing: dict[str, list[str]] = {}
    for name in names:
        try:
            own, status = _status(folder, name)
        except FileNotFoundError:
            are = "are links to nothing" if (root / name).is_symlink() else "are not"
        except OSError as error:
            are = f"cannot be reached ({error.strerror})"
        else:
            are = "" if S_ISREG(status.st_mode) else "are none"
            found.append(own)
            stamps.append((status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino))
        if are:
            missing.setdefault(are, []).append(name)
    return FoundFiles(found, np.array(stamps, dtype=np.int64).reshape(-1, 4), missing)


def _status(folder: str, name: str) -> tuple[str, os.stat_result]:
    """The name in the form in which the file is there, and its status. Raises OSError as ``stat`` does."""
    try:
        return name, os.stat(f"{folder}/{name}")  # noqa: PTH116 (of a hundred thousand files, three times as fast)
    except FileNotFoundError:
        for form in (normalize("NFC", name), normalize("NFD", name)):
            if form != name and os.path.exists(f"{folder}/{form}"):  # noqa: PTH110
                return form, os.stat(f"{folder}/{form}")  # noqa: PTH116
        raise
