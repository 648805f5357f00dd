"""Image files in a folder a class: ``train/<class>/``, ``test/<class>/`` and ``val/<class>/`` if there is one.

And Tiny ImageNet as it is unpacked: ``train/<class>/images/*``, and validation images that a list labels.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from csa.config.dataset_schema import ImageFolderDataset
from csa.config.faults import Fault, UserError, listed, nearest
from csa.data.image_files import ImageFiles, Walk, found_files, walk
from csa.data.pictures import read_images
from csa.data.sources.source import Preview, Source
from csa.data.split import Arrays, by_form, same_form, same_names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from csa.data.split import Images

KEY = "dataset.path"
PARTS, VALIDATION = ("train", "test"), "val"


@dataclass(frozen=True)
class Part:
    """``train``, ``test`` or ``val``: the files of each class below it, both sorted; and images in no class folder."""

    classes: dict[str, list[Path]]
    astray: list[Path]
    found: Walk

    def notes(self, name: str) -> list[str]:
        note = f"left out of {name}/: {len(self.astray)} in no class folder: {listed(self.astray, 3)}"
        return [*([note] if self.astray else []), *self.found.notes(f"{name}/")]


class ImageFolderSource(Source[ImageFolderDataset]):
    """Classes are the sorted folder names of ``train``; images, in folders below too, in the order of their names.

    A folder of ``test`` or ``val`` belongs to the class of its name, be it in another Unicode form. Hidden files, and
    those whose names end unlike an image's, are left out and told.
    """

    def inspect(self, config: ImageFolderDataset, data_dir: Path, download: bool) -> list[Fault]:
        if config.path is None:
            return [Fault(KEY, None, "is not set", "the folder that holds train/ and test/")]
        root = _root(config)
        absent = [f"{part}/" for part in PARTS if not (root / part).is_dir()]
        if absent:
            problem = "there is no such folder"
            if root.is_dir():
                problem = f"has no folder {' and '.join(absent)}; its folders are {listed(_folders(root)) or 'none'}"
            return [Fault(KEY, config.path, problem, "a folder with train/<class>/* and test/<class>/*")]
        parts = _parts(root)
        broken = [f"below {name}/ {problem}" for name, part in parts.items() for problem in part.found.problems()]
        if broken:
            return [Fault(KEY, config.path, problem) for problem in broken]
        for name in ("train", VALIDATION):
            if name in parts and not parts[name].classes:
                return [Fault(KEY, config.path, f"{name}/ has no class folder", f"{name}/<class>/*")]
        return _class_faults(config, parts)

    def preview(self, config: ImageFolderDataset, data_dir: Path) -> Preview:
        root = _root(config)
        sizes = tuple(len(files) for files in _part(root, "train").classes.values())
        return Preview(sizes, (3, config.image_size, config.image_size), validation=(root / VALIDATION).is_dir())

    def files(self, config: ImageFolderDataset, data_dir: Path) -> list[Path]:
        parts = _parts(_root(config)).values()
        return [file for part in parts for files in part.classes.values() for file in files]

    def load(self, config: ImageFolderDataset, data_dir: Path, download: bool) -> Arrays:
        root = _root(config)
        parts, faults = _parts(root), []
        classes, read = parts["train"].classes, {}
        for name, part in parts.items():
            files = {same: part.classes[own] for own, same in same_names(part.classes, classes).items()}
            by_class = [files.get(one, []) for one in classes]
            paths = [path for of_class in by_class for path in of_class]
            images, unread = read_images(KEY, paths, (3, config.image_size, config.image_size))
            read[name] = images, np.repeat(np.arange(len(classes)), [len(of_class) for of_class in by_class])
            faults += unread
        if faults:
            raise UserError(*faults)
        notes = (*_beside(root), *(note for name, part in parts.items() for note in part.notes(name)))
        return Arrays(*read["train"], *read["test"], tuple(classes), read.get(VALIDATION), notes)


def _root(config: ImageFolderDataset) -> Path:
    return Path(config.path or "").expanduser()


def _parts(root: Path) -> dict[str, Part]:
    return {name: _part(root, name) for name in (*PARTS, VALIDATION) if name in PARTS or (root / name).is_dir()}


def _part(root: Path, name: str) -> Part:
    found = walk(root / name)
    classes: dict[str, list[Path]] = {folder.name: [] for folder in found.folders if len(folder.parts) == 1}
    for path in found.images:
        if len(path.parts) > 1:
            classes[path.parts[0]].append(root / name / path)
    return Part(classes, [path for path in found.images if len(path.parts) == 1], found)


def _folders(root: Path) -> list[str]:
    return sorted(f"{entry.name}/" for entry in os.scandir(root) if entry.is_dir())


def _beside(root: Path) -> list[str]:
    """A note of the folders that are not read."""
    others = [name for name in _folders(root) if name.rstrip("/") not in (*PARTS, VALIDATION)]
    note = f"left out of {root}: {len(others)} folder(s) beside train/, test/ and val/: {listed(others)}"
    return [note] if others else []


def _class_faults(config: ImageFolderDataset, parts: dict[str, Part]) -> list[Fault]:
    def fault(problem: str, allowed: str = "", near: str = "") -> Fault:
        return Fault(KEY, config.path, problem, allowed, near)

    faults = []
    for name, part in parts.items():
        empty = [f"{name}/{folder}" for folder, files in part.classes.items() if not files]
        if empty and (name != VALIDATION or len(empty) == len(part.classes)):
            left_out = "".join(f"; {note}" for note in part.notes(name))
            faults.append(fault(f"no image in {listed(empty)}{left_out}", "at least one image a class"))
        twins = [" and ".join(map(ascii, names)) for names in by_form(part.classes).values() if len(names) > 1]
        if twins:
            faults.append(fault(f"{name}/ has one name in two Unicode forms: {listed(twins)}", "a folder a class"))
    train = parts["train"].classes
    looks = by_form(train)
    for name, part in parts.items():
        same = same_names(part.classes, train)
        unknown = [one for one in part.classes if one not in same]
        if unknown:
            shown = [ascii(one) if same_form(one) in looks else one for one in unknown]
            problem = f"{name}/ has classes that train/ has not: {listed(shown)}"
            faults.append(fault(problem, listed(list(train), 10), nearest(unknown[0], train)))
    tested = same_names(parts["test"].classes, train).values()
    untested = [name for name in train if name not in tested]
    if untested:
        faults.append(fault(f"test/ has no folder for {listed(untested)}", "every class of train/"))
    return faults


# --- Tiny ImageNet --------------------------------------------------------------------------

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
            return [Fault(KEY, config.path, problem, f"{ARCHIVE}, unpacked")]
        problems = _problems(root, _training(root), _test(root))
        return [Fault(KEY, config.path, problem, f"{ARCHIVE}, unpacked") for problem in problems]

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
        index_of = {name: k for k, name in enumerate(classes.tolist())}
        found = found_files(root, list(train))
        pool = ImageFiles(
            root, np.array(found.names), found.stamps, config.image_size, config.image_size,
            skip_unreadable=False, by_content=False, decoded_once=False, cache=root,
        )  # fmt: skip
        images = _read(config, list(test))
        return Arrays(pool, labels, images, np.array([index_of[name] for name in test.values()]), tuple(index_of))

    def training_images(
        self, config: ImageFolderDataset, arrays: Arrays, positions: np.ndarray, labels: np.ndarray
    ) -> Images:
        assert isinstance(arrays.train_images, ImageFiles)
        return _read(config, arrays.train_images.names[positions].tolist())


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
    root, side = _root(config), config.image_size
    images, faults = read_images(KEY, [root / name for name in names], (3, side, side))
    if faults:
        raise UserError(*faults)
    return images
