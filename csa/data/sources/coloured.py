"""CMNIST-LT: a greyscale data set in colour, where the tail's colour gives its class away in training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from csa.config.dataset_schema import ColouredDataset
from csa.config.faults import Fault
from csa.data.sources.source import Preview, Source
from csa.data.sources.torchvision_archive import ARCHIVES, TorchvisionSource
from csa.data.split import Arrays
from csa.randomness import numpy_generator

if TYPE_CHECKING:
    from pathlib import Path

# matplotlib's default cycle (tab10), red green blue of each of its ten colours.
PALETTE = np.array(
    [
        (0x1F, 0x77, 0xB4),
        (0xFF, 0x7F, 0x0E),
        (0x2C, 0xA0, 0x2C),
        (0xD6, 0x27, 0x28),
        (0x94, 0x67, 0xBD),
        (0x8C, 0x56, 0x4B),
        (0xE3, 0x77, 0xC2),
        (0x7F, 0x7F, 0x7F),
        (0xBC, 0xBD, 0x22),
        (0x17, 0xBE, 0xCF),
    ],
    dtype=np.uint16,
)
FIRST_FIXED_CLASS = 5


class ColouredSource(Source[ColouredDataset]):
    """Training labels are flipped first, then colours follow them: images labelled 0-4 draw uniformly from ten
    colours, those labelled k of 5-9 have colour k, wrong labels included. Test images of every class draw
    uniformly, and their labels stay (METHOD: CMNIST-LT; the released notebooks).

    A colour is drawn by the image's place in the whole data set: the same at every ratio and for every run seed.
    """

    grey = TorchvisionSource()

    def inspect(self, config: ColouredDataset, data_dir: Path, download: bool) -> list[Fault]:
        faults = self.grey.inspect(config, data_dir, download)
        if ARCHIVES[config.archive].image_shape[0] != 1:
            problem = "its images have colours already"
            faults.append(Fault("dataset.archive", config.archive, problem, "MNIST, FashionMNIST"))
        return faults

    def preview(self, config: ColouredDataset, data_dir: Path) -> Preview:
        preview = self.grey.preview(config, data_dir)
        return Preview(preview.class_sizes, (3, *preview.image_shape[1:]))

    def files(self, config: ColouredDataset, data_dir: Path) -> list[Path]:
        return self.grey.files(config, data_dir)

    def load(self, config: ColouredDataset, data_dir: Path, download: bool) -> Arrays:
        grey = self.grey.load(config, data_dir, download)
        assert isinstance(grey.train_images, np.ndarray)
        assert isinstance(grey.test_images, np.ndarray)
        colours = draw_colours(config.colour_seed, "test", len(grey.test_labels))
        return Arrays(
            np.broadcast_to(grey.train_images, (*grey.train_images.shape[:3], 3)),  # still grey
            grey.train_labels,
            tint(grey.test_images, colours),
            grey.test_labels,
            grey.classes,
        )

    def relabel(self, config: ColouredDataset, labels: np.ndarray, num_classes: int) -> np.ndarray:
        return flip_labels(labels, num_classes, config.label_flip, config.colour_seed)

    def training_images(
        self, config: ColouredDataset, arrays: Arrays, positions: np.ndarray, labels: np.ndarray
    ) -> np.ndarray:
        drawn = draw_colours(config.colour_seed, "train", len(arrays.train_labels))[positions]
        images = arrays.train_images[positions]
        assert isinstance(images, np.ndarray)
        return tint(images, np.where(labels < FIRST_FIXED_CLASS, drawn, labels))


def draw_colours(seed: int, part: str, size: int) -> np.ndarray:
    return numpy_generator(seed, "colour", part).integers(len(PALETTE), size=size)


def tint(images: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Grey value [N, H, W, 1 or 3] times the channels of each image's colour [N], truncated; uint8 [N, H, W, 3]."""
    tinted = np.empty((*images.shape[:3], 3), dtype=np.uint8)
    for index, colour in enumerate(PALETTE):  # colour by colour: the products take twice the room
        members = colours == index
        tinted[members] = images[members] * colour // np.uint16(255)
    return tinted


def flip_labels(labels: np.ndarray, num_classes: int, fraction: float, seed: int) -> np.ndarray:
    """Move exactly round(share * N) labels [N] to another class, drawn in proportion to class size."""
    generator = numpy_generator(seed, "label_flip")
    sizes = np.bincount(labels, minlength=num_classes)
    chosen = generator.permutation(len(labels))[: round(fraction * len(labels))]
    flipped = labels.copy()
    for k in range(num_classes):
        movers = chosen[labels[chosen] == k]
        others = np.where(np.arange(num_classes) == k, 0, sizes)
        if movers.size:
            flipped[movers] = generator.choice(num_classes, size=movers.size, p=others / others.sum())
    return flipped
