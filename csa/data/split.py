"""The long-tailed split of a data set, as plain arrays, and the names of its classes. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from unicodedata import category, normalize

import numpy as np

from csa.config.faults import Fault
from csa.data.image_files import ImageFiles

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

TRAIN, TEST, HOLDOUT = "train", "test", "holdout"
Images = np.ndarray | ImageFiles
"""uint8 [N, H, W, C], or files that are decoded batch by batch."""


@dataclass(frozen=True)
class Arrays:
    """A data set as its source delivers it: labels int64 [N] of each part's images.

    held: validation images and labels that the source brings of its own; None: taken from the training images.
    notes: lines for people, of what was left out or looks like a mistake.
    """

    train_images: Images
    train_labels: np.ndarray
    test_images: Images
    test_labels: np.ndarray
    classes: tuple[str, ...]
    held: tuple[Images, np.ndarray] | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Groups:
    """Shot groups as class indices: the three names are the field's, in this order."""

    many: tuple[int, ...]
    medium: tuple[int, ...]
    few: tuple[int, ...]

    def as_lists(self) -> dict[str, list[int]]:
        return {name: list(classes) for name, classes in vars(self).items()}


@dataclass(frozen=True)
class Split:
    """The training subset (class-sorted), the test set, and the validation images if any.

    counts: training images of each class [K]; by_rank: the paper's groups; by_count: many > 100,
    few < 20; mean, std: normalisation of each channel in [0, 1]; hash: of all contents, the
    identity of the data; arrays and notes are as in ``Arrays``.
    """

    name: str
    train_images: Images
    train_labels: np.ndarray
    test_images: Images
    test_labels: np.ndarray
    holdout_images: Images
    holdout_labels: np.ndarray
    classes: tuple[str, ...]
    counts: tuple[int, ...]
    by_rank: Groups
    by_count: Groups
    mean: tuple[float, ...]
    std: tuple[float, ...]
    hash: str
    notes: tuple[str, ...] = ()

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        height, width, channels = self.train_images.shape[1:]
        return channels, height, width

    @property
    def images(self) -> dict[str, Images]:
        """Of each part."""
        return {TRAIN: self.train_images, TEST: self.test_images, HOLDOUT: self.holdout_images}

    @property
    def files(self) -> dict[str, ImageFiles]:
        """The parts whose images lie in files."""
        return {name: images for name, images in self.images.items() if isinstance(images, ImageFiles)}

    @property
    def labels(self) -> dict[str, np.ndarray]:
        """Of each part."""
        return {TRAIN: self.train_labels, TEST: self.test_labels, HOLDOUT: self.holdout_labels}


# --- names of classes -----------------------------------------------------------------------

CONTROLS = ("Cc", "Cs", "Zl", "Zp")
"""Unicode's categories of control characters, of bytes that are no text, and of line ends."""


def has_controls(name: str) -> bool:
    """Whether a name would be torn, or would steer a terminal, wherever it is shown."""
    return not name.isprintable() and any(category(letter) in CONTROLS for letter in name)


def same_form(name: str) -> str:
    """Equal for two names that look the same, whichever Unicode form they are in (a Mac's files have NFD)."""
    return normalize("NFC", name)


def same_names(names: Iterable[str], known: Iterable[str]) -> dict[str, str]:
    """Of each name the known one that it is, in this or another Unicode form; names that are none are left out.

    Two names that differ in their form alone are never taken for one another.
    """
    names, known = set(names), set(known)
    found = {name: name for name in names & known}
    ours, theirs = by_form(names), by_form(known)
    for form, members in ours.items():
        if len(members) == len(theirs.get(form, ())) == 1:
            found[members[0]] = theirs[form][0]
    return found


def by_form(names: Iterable[str]) -> dict[str, list[str]]:
    """Names that look the same, by their common form."""
    groups: dict[str, list[str]] = {}
    for name in sorted(names):
        groups.setdefault(same_form(name), []).append(name)
    return groups


def distinct_names(names: Sequence[str]) -> list[str]:
    """Names that differ: the second of one name is ``name (2)``, as ImageNet has two cranes."""
    taken = set(names)
    found: dict[str, None] = {}
    for name in names:
        number, own = 1, name
        while own in found or (number > 1 and own in taken):
            number += 1
            own = f"{name} ({number})"
        found[own] = None
    return list(found)


def name_faults(dataset: str, names: Sequence[str]) -> list[Fault]:
    """Names that no table, file or picture can show."""
    bad = [k for k, name in enumerate(names) if has_controls(name)]
    return [
        Fault("dataset", dataset, f"class {k} is called {names[k]!a}", "names without control characters")
        for k in bad[:3]
    ]
