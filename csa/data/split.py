"""The long-tailed split of a data set, as plain arrays. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from csa.data.image_files import ImageFiles

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
    def files(self) -> dict[str, ImageFiles]:
        """The parts whose images lie in files."""
        parts = {TRAIN: self.train_images, TEST: self.test_images, HOLDOUT: self.holdout_images}
        return {name: images for name, images in parts.items() if isinstance(images, ImageFiles)}

    @property
    def labels(self) -> dict[str, np.ndarray]:
        """Of each part."""
        return {TRAIN: self.train_labels, TEST: self.test_labels, HOLDOUT: self.holdout_labels}
