"""Images that stay in their files until a batch asks for them. Imports no torch."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


@dataclass(frozen=True)
class ImageFiles:
    """Files below ``root``; stands where an array of images uint8 [N, H, W, C] would.

    names: paths relative to ``root``, [N] of str. sizes: their lengths in bytes [N], by which a data set with
    other files under the same names has another hash. side: of the square that a network takes. cover: what
    the shorter side is resized to before the centre square is cut, in evaluation. skip_unreadable: pass over
    damaged files and count them, instead of stopping. cache: folder of a file of decoded squares, of ``cover``
    pixels, that training reads instead; None: decode every time.
    """

    root: Path
    names: np.ndarray
    sizes: np.ndarray
    side: int
    cover: int
    skip_unreadable: bool
    cache: Path | None

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """As the array of what the network takes would have it."""
        return len(self.names), self.side, self.side, 3

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, positions: np.ndarray | slice) -> ImageFiles:
        return replace(self, names=self.names[positions], sizes=self.sizes[positions])

    def path(self, position: int) -> Path:
        return self.root / str(self.names[position])

    def digest(self) -> bytes:
        """Of names, file sizes and input size: what stands for the pixels, which nobody reads for a hash."""
        told = [f"{self.side} {self.cover} {'decoded once' if self.cache else ''}"]
        told += [f"{name}\0{size}" for name, size in zip(self.names.tolist(), self.sizes.tolist(), strict=True)]
        return hashlib.sha256("\n".join(told).encode()).digest()


def file_sizes(root: Path, names: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Bytes of each file [N] (-1 where there is none), and the names that are missing."""
    sizes = np.full(len(names), -1, dtype=np.int64)
    for place, name in enumerate(names):
        try:
            sizes[place] = (root / name).stat().st_size
        except OSError:
            continue
    return sizes, [name for name, size in zip(names, sizes, strict=True) if size < 0]
