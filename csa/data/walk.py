"""The image files below a folder, and whatever lies there that is none: nothing is left out in silence.

Imports no torch.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePath

from csa.data.sources.source import listed

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
    return "" if stat.S_ISDIR(mode) or stat.S_ISREG(mode) else "neither file(s) nor folder(s)"


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
