"""The images that are measured on: CIFAR-100-LT, or random ones in its place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from csa.config.dataset_schema import TorchvisionDataset
from csa.config.schema import Config
from csa.data.dataset import inspect, load_split
from csa.data.sources.source import Preview, Source
from csa.data.sources.torchvision_archive import TorchvisionSource
from csa.data.split import Arrays

if TYPE_CHECKING:
    from csa.config.faults import Fault
    from csa.data.split import Split

NOWHERE = Path("/nonexistent")
TEST_IMAGES = 10_000


class RandomSource(Source[TorchvisionDataset]):
    """Random pixels in the shape and number of the published training and test set."""

    def inspect(self, config: TorchvisionDataset, data_dir: Path, download: bool) -> list[Fault]:
        return []

    def preview(self, config: TorchvisionDataset, data_dir: Path) -> Preview:
        return TorchvisionSource().preview(config, NOWHERE)

    def load(self, config: TorchvisionDataset, data_dir: Path, download: bool) -> Arrays:
        known = self.preview(config, data_dir)
        sizes, (channels, height, width) = known.class_sizes, known.image_shape
        draw = np.random.default_rng(0)

        def images(labels: np.ndarray) -> np.ndarray:
            return draw.integers(0, 256, (len(labels), height, width, channels), dtype=np.uint8)

        train = np.repeat(np.arange(len(sizes)), sizes)
        test = np.arange(TEST_IMAGES) % len(sizes)
        return Arrays(images(train), train, images(test), test, tuple(map(str, range(len(sizes)))))


def split_of(config: Config) -> tuple[Split, str]:
    """The split, and what to say of it. Nothing is downloaded; where there are no images, they are random."""
    dataset = config.dataset
    origin = f"{dataset.name} from {dataset.source}"
    if inspect(dataset, config.data_dir, download=False):
        origin = f"RANDOM images, since {dataset.name} is not in data_dir"
        dataset = replace(dataset, source="benchmarks.images.RandomSource")
    split = load_split(dataset, config.data_dir, download=False)
    return split, f"{origin}: {len(split.train_labels):,} training and {len(split.test_labels):,} test images"
