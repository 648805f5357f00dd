"""Tiny ImageNet as it is unpacked: ``train/<class>/images/*``, and validation images that a list labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from csa.config.dataset_schema import ImageFolderDataset
from csa.config.faults import Fault, UserError
from csa.data.image_files import ImageFiles, found_files
from csa.data.pictures import UnreadableImageError, read_image
from csa.data.sources.source import Preview, Source, listed
from csa.data.split import Arrays

if TYPE_CHECKING:
    from collections.abc import Sequence

    from csa.data.split import Images

ARCHIVE = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
ANNOTATIONS, TEST_IMAGES = "val/val_annotations.txt", "val/images"
"""The test images of the archive have no labels; in the field its validation images are the test set."""


class TinyImageNetSource(Source[ImageFolderDataset]):
    """Of the training images only those are read that the long-tailed subset has."""

    def inspect(self, config: ImageFolderDataset, data_dir: Path, download: bool) -> list[Fault]:
        root = _root(config)
        absent = [name for name in ("train", TEST_IMAGES, ANNOTATIONS) if not (root / name).exists()]
        if absent:
            problem = f"has no {listed(absent)}" if root.is_dir() else "there is no such folder"
            return [Fault("dataset.path", config.path, problem, f"{ARCHIVE}, unpacked")]
        problems = _problems(root, _training(root), _test(root))
        return [Fault("dataset.path", config.path, problem, f"{ARCHIVE}, unpacked") for problem in problems]

    def preview(self, config: ImageFolderDataset, data_dir: Path) -> Preview:
        _, sizes = np.unique(list(_training(_root(config)).values()), return_counts=True)
        return Preview(tuple(sizes.tolist()), (3, config.image_size, config.image_size))

    def files(self, config: ImageFolderDataset, data_dir: Path) -> list[Path]:
        root = _root(config)
        return [root / ANNOTATIONS, *(root / name for names in (_training(root), _test(root)) for name in names)]

    def load(self, config: ImageFolderDataset, data_dir: Path, download: bool) -> Arrays:
        root = _root(config)
        train, test = _training(root), _test(root)
        classes, labels = np.unique(list(train.values()), return_inverse=True)
        place = {name: k for k, name in enumerate(classes.tolist())}
        found = found_files(root, list(train))
        pool = ImageFiles(
            root, np.array(found.names), found.stamps, config.image_size, config.image_size,
            skip_unreadable=False, by_content=False, decoded_once=False, cache=root,
        )  # fmt: skip
        images = _read(config, list(test))
        return Arrays(pool, labels, images, np.array([place[name] for name in test.values()]), tuple(place))

    def training_images(
        self, config: ImageFolderDataset, arrays: Arrays, positions: np.ndarray, labels: np.ndarray
    ) -> Images:
        assert isinstance(arrays.train_images, ImageFiles)
        return _read(config, arrays.train_images.names[positions].tolist())


def _root(config: ImageFolderDataset) -> Path:
    return Path(config.path or "").expanduser()


def _training(root: Path) -> dict[str, str]:
    """Of each training image, by its name below the root, the class; sorted."""
    found = sorted(root.glob("train/*/images/*.JPEG"))
    return {path.relative_to(root).as_posix(): path.parts[-3] for path in found}


def _test(root: Path) -> dict[str, str]:
    """The same of the test images: the first two columns of the annotations; in their order."""
    rows = (line.split("\t") for line in (root / ANNOTATIONS).read_text().splitlines() if "\t" in line)
    return {f"{TEST_IMAGES}/{name}": of_class for name, of_class, *_ in rows}


def _problems(root: Path, train: dict[str, str], test: dict[str, str]) -> list[str]:
    folders, classes, tested = {path.name for path in root.glob("train/*/")}, set(train.values()), set(test.values())
    found = {
        "train/ has classes without an image": folders - classes,
        f"{ANNOTATIONS} has classes that train/ has not": tested - classes,
        f"{ANNOTATIONS} has no image of": classes - tested,
        f"{ANNOTATIONS} names images that are not there": {name for name in test if not (root / name).is_file()},
    }
    return [f"{problem}: {listed(sorted(names))}" for problem, names in found.items() if names]


def _read(config: ImageFolderDataset, names: Sequence[str]) -> np.ndarray:
    """uint8 [N, side, side, 3]; raises UserError with every file that is no readable image."""
    root, side, faults = _root(config), config.image_size, []
    images = np.zeros((len(names), side, side, 3), dtype=np.uint8)
    for pixels, name in zip(images, names, strict=True):
        try:
            pixels[:] = read_image(root / name, (3, side, side))
        except UnreadableImageError as error:
            faults.append(Fault("dataset.path", root / name, f"cannot be read as an image ({error})"))
    if faults:
        raise UserError(*faults)
    return images
