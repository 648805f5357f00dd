"""CMNIST-LT: a greyscale data set in colour, where the tail's colour gives its class away in training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from csa.config.faults import Fault
from csa.config.schema import ColouredDataset
from csa.data.sources.source import Preview, Source
from csa.data.sources.torchvision_archive import ARCHIVES, TorchvisionSource
from csa.data.split import Arrays
from csa.randomness import numpy_generator

if TYPE_CHECKING:
    from pathlib import Path

# seaborn's default palette ("deep"), red green blue of each of its ten colours.
PALETTE = np.array(
    [
        (0x4C, 0x72, 0xB0),
        (0xDD, 0x84, 0x52),
        (0x55, 0xA8, 0x68),
        (0xC4, 0x4E, 0x52),
        (0x81, 0x72, 0xB3),
        (0x93, 0x78, 0x60),
        (0xDA, 0x8B, 0xC3),
        (0x8C, 0x8C, 0x8C),
        (0xCC, 0xB9, 0x74),
        (0x64, 0xB5, 0xCD),
    ],
    dtype=np.uint16,
)
FIRST_FIXED_CLASS = 5


class ColouredSource(Source[ColouredDataset]):
    """Training images of classes 0-4 draw their colour uniformly from ten, those of class k of 5-9 have
    colour k; test images of every class draw uniformly (METHOD: CMNIST-LT).

    An image's colour is drawn by its place in the whole data set, so it is the same at every ratio.
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
        colours = draw_colours(config.colour_seed, "train", len(grey.train_labels))
        colours = np.where(grey.train_labels < FIRST_FIXED_CLASS, colours, grey.train_labels)
        test_colours = draw_colours(config.colour_seed, "test", len(grey.test_labels))
        return Arrays(
            tint(grey.train_images, colours),
            grey.train_labels,
            tint(grey.test_images, test_colours),
            grey.test_labels,
            grey.classes,
        )

    def relabel(self, config: ColouredDataset, labels: np.ndarray, num_classes: int) -> np.ndarray:
        """Flip ``label_flip`` of the subset's labels; pixels keep the colour of their true class."""
        return flip_labels(labels, num_classes, config.label_flip, config.colour_seed)


def draw_colours(seed: int, part: str, size: int) -> np.ndarray:
    return numpy_generator(seed, "colour", part).integers(len(PALETTE), size=size)


def tint(images: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Grey value [N, H, W, 1] times the channels of each image's colour [N], rounded; uint8 [N, H, W, 3]."""
    tinted = np.empty((*images.shape[:3], 3), dtype=np.uint8)
    for index, colour in enumerate(PALETTE):  # colour by colour: the products take twice the room
        members = colours == index
        tinted[members] = (images[members] * colour + np.uint16(127)) // np.uint16(255)
    return tinted


def flip_labels(labels: np.ndarray, num_classes: int, share: float, seed: int) -> np.ndarray:
    """Move exactly round(share * N) labels [N] to another class, drawn in proportion to class size."""
    generator = numpy_generator(seed, "label_flip")
    sizes = np.bincount(labels, minlength=num_classes)
    chosen = generator.permutation(len(labels))[: round(share * len(labels))]
    flipped = labels.copy()
    for k in range(num_classes):
        movers = chosen[labels[chosen] == k]
        others = np.where(np.arange(num_classes) == k, 0, sizes)
        if movers.size:
            flipped[movers] = generator.choice(num_classes, size=movers.size, p=others / others.sum())
    return flipped
