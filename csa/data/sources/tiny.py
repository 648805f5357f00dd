"""Images that are in no file: scikit-learn's digits; and a few made-up ones in the shape of a real data set.

Those show whether everything fits together (``smoke=true``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from csa.config.dataset_schema import ColouredDataset, DigitsDataset, TorchvisionDataset
from csa.config.faults import Fault
from csa.config.schema import DatasetConfig
from csa.data.sources.coloured import ColouredSource
from csa.data.sources.source import Preview, Source
from csa.data.sources.torchvision_archive import TorchvisionSource
from csa.data.split import Arrays
from csa.randomness import numpy_generator

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


# --- made up --------------------------------------------------------------------------------

# Sources that know their published facts without a file, the more special first.
STANDS_FOR: tuple[tuple[type[DatasetConfig], type[Source[Any]]], ...] = (
    (ColouredDataset, ColouredSource),
    (TorchvisionDataset, TorchvisionSource),
    (DigitsDataset, DigitsSource),
)
IMAGES = 2
NOWHERE = Path("/nonexistent")


class TinySource(Source[DatasetConfig]):
    """Two training images a class and ``holdout`` more, two test images a class; other images for another ratio."""

    def inspect(self, config: DatasetConfig, data_dir: Path, download: bool) -> list[Fault]:
        return []

    def preview(self, config: DatasetConfig, data_dir: Path) -> Preview:
        classes, shape = _facts(config)
        return Preview((IMAGES + config.holdout,) * classes, shape)

    def load(self, config: DatasetConfig, data_dir: Path, download: bool) -> Arrays:
        classes, (channels, height, width) = _facts(config)
        draw = numpy_generator(config.split_seed, "tiny", config.name, f"{config.imbalance_ratio:g}")

        def images(of_each: int) -> tuple[np.ndarray, np.ndarray]:
            labels = np.repeat(np.arange(classes), of_each)
            return draw.integers(0, 256, (len(labels), height, width, channels), dtype=np.uint8), labels

        return Arrays(*images(IMAGES + config.holdout), *images(IMAGES), tuple(map(str, range(classes))))


def _facts(config: DatasetConfig) -> tuple[int, tuple[int, int, int]]:
    """Number of classes and image shape; of anyone's own data what its configuration tells."""
    for schema, source in STANDS_FOR:
        if isinstance(config, schema):
            known = source().preview(config, NOWHERE)
            assert known is not None
            return len(known.class_sizes), known.image_shape
    classes = sum(config.groups) if config.groups else 10
    side = min(getattr(config, "image_size", 32), 32)  # whoever needs more can make it so
    return classes, (len(config.mean) if config.mean else 3, side, side)
