"""scikit-learn's handwritten digits: real images that ship with the package."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from csa.config.dataset_schema import DigitsDataset
from csa.config.faults import Fault
from csa.data.sources.source import Preview, Source
from csa.data.split import Arrays

if TYPE_CHECKING:
    from pathlib import Path

CLASS_SIZES = (178, 182, 177, 183, 181, 182, 181, 179, 174, 180)
SIDE = 8


class DigitsSource(Source[DigitsDataset]):
    """1,797 images of 8x8 pixels. The last ``test_per_class`` images of each class in the package's
    order are the test set, the others the training pool.

    Enlarging repeats pixels (nearest), so the values stay the data set's own.
    """

    def inspect(self, config: DigitsDataset, data_dir: Path, download: bool) -> list[Fault]:
        smallest = min(CLASS_SIZES)
        if config.test_per_class < smallest:
            return []
        problem = f"the smallest class has {smallest} images, which leaves none for training"
        return [Fault("dataset.test_per_class", config.test_per_class, problem, f"1 to {smallest - 1}")]

    def preview(self, config: DigitsDataset, data_dir: Path) -> Preview:
        side = SIDE * config.enlarge
        return Preview(tuple(size - config.test_per_class for size in CLASS_SIZES), (1, side, side))

    def load(self, config: DigitsDataset, data_dir: Path, download: bool) -> Arrays:
        from sklearn.datasets import load_digits

        digits = load_digits()
        labels = digits.target.astype(np.int64)
        images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
        images = images.repeat(config.enlarge, axis=1).repeat(config.enlarge, axis=2)[..., None]
        last = [np.flatnonzero(labels == k)[-config.test_per_class :] for k in range(len(CLASS_SIZES))]
        test = np.zeros(len(labels), dtype=bool)
        test[np.concatenate(last)] = True
        classes = tuple(map(str, digits.target_names))
        return Arrays(images[~test], labels[~test], images[test], labels[test], classes)
