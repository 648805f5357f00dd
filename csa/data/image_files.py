"""Images that stay in their files until a batch asks for them, and how files are found. Imports no torch."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path, PurePath
from stat import S_ISDIR, S_ISREG
from typing import TYPE_CHECKING
from unicodedata import normalize

import numpy as np

from csa.config.faults import listed
from csa.data.cache_folder import content_hashes

if TYPE_CHECKING:
    from collections.abc import Sequence

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
        parts = [f"{self.side} {self.cover} {'decoded once' if self.decoded_once else ''}"]
        parts += [f"{name}\0{content}" for name, content in zip(self.names.tolist(), self._contents, strict=True)]
        return hashlib.sha256("\n".join(parts).encode()).digest()

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


# --- below a folder -------------------------------------------------------------------------

HIDDEN, OTHER = "hidden", "no image(s) by name"


@dataclass
class Walk:
    """What lies below a folder, as paths relative to it, sorted.

    images: files whose names end as those of images, or in nothing that says otherwise. folders: all that were read.
    left_out, broken: what else there is, by its kind; what is broken may be an image or hold some.
    """

    images: list[Path] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    left_out: dict[str, list[Path]] = field(default_factory=dict)
    broken: dict[str, list[Path]] = field(default_factory=dict)

    def notes(self, folder: str) -> list[str]:
        """A line a kind of what is left out; folder: how a person calls it."""
        return [f"left out of {folder}: {_counted(kind, paths)}" for kind, paths in self.left_out.items()]

    def problems(self) -> list[str]:
        """A line a kind of what is broken."""
        return [_counted(kind, paths) for kind, paths in self.broken.items()]


def walk(folder: Path) -> Walk:
    """Links are followed, but not to a folder that they lie in."""
    found = Walk()
    waiting: list[tuple[Path, tuple[str, ...]]] = [(Path(), (os.path.realpath(folder),))]
    while waiting:
        below, inside = waiting.pop()  # inside: real paths of this folder and of those that it was reached by
        try:
            entries = list(os.scandir(folder / below))
        except OSError as error:
            found.broken.setdefault(f"folder(s) that cannot be read ({error.strerror})", []).append(below)
            continue
        found.folders.append(below)
        for entry in entries:
            path = below / entry.name
            if entry.name.startswith("."):
                found.left_out.setdefault(HIDDEN, []).append(path)
            elif problem := _broken(entry, inside):
                found.broken.setdefault(problem, []).append(path)
            elif entry.is_dir():
                waiting.append((path, (*inside, os.path.realpath(entry.path))))
            elif may_be_image(entry.name):
                found.images.append(path)
            else:
                found.left_out.setdefault(OTHER, []).append(path)
    for paths in (found.images, found.folders, *found.left_out.values(), *found.broken.values()):
        paths.sort()
    return found


def _broken(entry: os.DirEntry[str], inside: tuple[str, ...]) -> str:
    """Why an entry is neither a file nor a folder that can be walked; nothing where it is."""
    try:
        mode = entry.stat().st_mode
    except FileNotFoundError:
        return "link(s) whose target is gone"
    except OSError as error:
        return f"that cannot be reached ({error.strerror})"
    if entry.is_symlink() and os.path.realpath(entry.path) in inside:
        return "link(s) to a folder that they lie in"
    return "" if S_ISDIR(mode) or S_ISREG(mode) else "neither file(s) nor folder(s)"


def may_be_image(name: str) -> bool:
    """Whether the end of the name is that of a format which can be read, or says nothing."""
    ending = PurePath(name).suffix.lower()
    return not ending or ending in _endings()


@cache
def _endings() -> frozenset[str]:
    from PIL import Image

    formats = Image.registered_extensions()
    return frozenset(ending for ending, name in formats.items() if name in Image.OPEN)


def _counted(kind: str, paths: list[Path]) -> str:
    return f"{len(paths)} {kind}: {listed(paths, 3)}"
