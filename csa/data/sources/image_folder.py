"""Image files in ``train/<class>/*`` and ``test/<class>/*``."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from csa.config.faults import Fault, UserError, nearest
from csa.config.schema import ImageFolderDataset
from csa.data.pictures import UnreadableImageError, read_image
from csa.data.sources.source import Preview, Source, listed
from csa.data.split import Arrays

PARTS = ("train", "test")


class ImageFolderSource(Source[ImageFolderDataset]):
    """Classes are the sorted folder names of ``train``; images are read in the order of their names.

    Every file counts as an image, hidden ones excepted, so that a damaged or misplaced file is told
    and never left out in silence.
    """

    def inspect(self, config: ImageFolderDataset, data_dir: Path, download: bool) -> list[Fault]:
        if config.path is None:
            return [Fault("dataset.path", None, "is not set", "the folder that holds train/ and test/")]
        root = _root(config)
        absent = [f"{part}/" for part in PARTS if not (root / part).is_dir()]
        if absent:
            problem = f"has no folder {' and '.join(absent)}" if root.is_dir() else "there is no such folder"
            return [Fault("dataset.path", config.path, problem, "a folder with train/<class>/* and test/<class>/*")]
        files = {part: _files(root / part) for part in PARTS}
        if not files["train"]:
            return [Fault("dataset.path", config.path, "train/ has no class folder", "train/<class>/*")]
        return _class_faults(config, files["train"], files["test"])

    def preview(self, config: ImageFolderDataset, data_dir: Path) -> Preview:
        sizes = tuple(len(files) for files in _files(_root(config) / "train").values())
        return Preview(sizes, (3, config.image_size, config.image_size))

    def files(self, config: ImageFolderDataset, data_dir: Path) -> list[Path]:
        parts = (_files(_root(config) / part) for part in PARTS)
        return [file for part in parts for files in part.values() for file in files]

    def load(self, config: ImageFolderDataset, data_dir: Path, download: bool) -> Arrays:
        root = _root(config)
        classes = {name: k for k, name in enumerate(_files(root / "train"))}
        train_images, train_labels, faults = _read_part(root / "train", classes, config.image_size)
        test_images, test_labels, more = _read_part(root / "test", classes, config.image_size)
        if faults or more:
            raise UserError(*faults, *more)
        return Arrays(train_images, train_labels, test_images, test_labels, tuple(classes))


def _root(config: ImageFolderDataset) -> Path:
    return Path(config.path or "").expanduser()


def _files(folder: Path) -> dict[str, list[Path]]:
    """The files of each class, both sorted by name."""
    classes = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    return {
        entry.name: sorted(file for file in entry.iterdir() if file.is_file() and not file.name.startswith("."))
        for entry in classes
    }


def _class_faults(config: ImageFolderDataset, train: dict[str, list[Path]], test: dict[str, list[Path]]) -> list[Fault]:
    def fault(problem: str, allowed: str = "", near: str = "") -> Fault:
        return Fault("dataset.path", config.path, problem, allowed, near)

    faults = []
    for part, classes in (("train", train), ("test", test)):
        empty = [f"{part}/{name}" for name, files in classes.items() if not files]
        if empty:
            faults.append(fault(f"no image in {listed(empty)}", "at least one image a class"))
    unknown = [name for name in test if name not in train]
    if unknown:
        problem = f"test/ has classes that train/ has not: {listed(unknown)}"
        faults.append(fault(problem, listed(list(train), 10), nearest(unknown[0], train)))
    untested = [name for name in train if name not in test]
    if untested:
        faults.append(fault(f"test/ has no folder for {listed(untested)}", "every class of train/"))
    return faults


def _read_part(folder: Path, classes: dict[str, int], side: int) -> tuple[np.ndarray, np.ndarray, list[Fault]]:
    """Images and labels of ``train`` or ``test``, and a fault for each file that is no readable image."""
    files = [(file, classes[name]) for name, members in _files(folder).items() for file in members]
    images, faults = np.zeros((len(files), side, side, 3), dtype=np.uint8), []
    for pixels, (file, _) in zip(images, files, strict=True):
        try:
            pixels[:] = read_image(file, (3, side, side))
        except UnreadableImageError as error:
            faults.append(Fault("dataset.path", file, f"cannot be read as an image ({error})"))
    return images, np.array([label for _, label in files], dtype=np.int64), faults
