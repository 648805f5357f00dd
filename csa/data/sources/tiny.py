"""A few made-up images in the shape of a real data set, to see whether everything fits together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from csa.config.dataset_schema import ColouredDataset, DigitsDataset, TorchvisionDataset
from csa.config.schema import DatasetConfig
from csa.data.sources.coloured import ColouredSource
from csa.data.sources.digits import DigitsSource
from csa.data.sources.source import Preview, Source
from csa.data.sources.torchvision_archive import TorchvisionSource
from csa.data.split import Arrays
from csa.randomness import numpy_generator

if TYPE_CHECKING:
    from csa.config.faults import Fault

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
