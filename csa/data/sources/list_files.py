"""Image files named by lists: lines ``relative/path label``, as ImageNet-LT, Places-LT and iNaturalist have them."""

from __future__ import annotations

import codecs
import posixpath
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from csa.config.dataset_schema import ListFilesDataset
from csa.config.faults import Fault, UserError, listed
from csa.data.image_files import ImageFiles, found_files
from csa.data.sources.source import Preview, Source
from csa.data.split import Arrays, has_controls

if TYPE_CHECKING:
    from collections.abc import Mapping

LINE = "lines of a path relative to dataset.root, spaces or a tab, and a label counted from 0"
MOST_DIGITS = 18


@dataclass(frozen=True)
class Listed:
    """One list file: names [N], labels [N]; and what is wrong with its lines."""

    names: tuple[str, ...]
    labels: np.ndarray
    problems: tuple[str, ...]


class ListFilesSource(Source[ListFilesDataset]):
    """Classes are numbered by descending number of training images, equal ones in the lists' order.

    A class is called by the folder that all its training images share, else by its label in the lists.
    """

    def inspect(self, config: ListFilesDataset, data_dir: Path, download: bool) -> list[Fault]:
        faults = []
        if not _root(config).is_dir():
            faults.append(Fault("dataset.root", config.root, "there is no such folder", "the folder of the images"))
        if config.mean is None or config.std is None:
            problem = "cannot be measured without reading every image"
            faults.append(Fault("dataset.mean", "null", problem, "a number a channel, and as many in dataset.std"))
        for key, path in list_paths(config).items():
            if not path.is_file():
                problem = "is not a file" if path.exists() else "there is no such file"
                faults.append(Fault(f"dataset.{key}", path, problem, "a list file"))
        return faults or _list_faults(config)

    def preview(self, config: ListFilesDataset, data_dir: Path) -> Preview:
        sizes = np.sort(np.bincount(read_lists(config)["train_list"].labels))[::-1]
        given, shape = config.validation and config.val_list is not None, (3, config.image_size, config.image_size)
        return Preview(tuple(sizes.tolist()), shape, in_memory=False, validation=given)

    def files(self, config: ListFilesDataset, data_dir: Path) -> list[Path]:
        root = _root(config)
        found = [found_files(root, part.names) for part in read_lists(config).values()]
        return [*list_paths(config).values(), *(root / name for part in found for name in part.names)]

    def load(self, config: ListFilesDataset, data_dir: Path, download: bool) -> Arrays:
        """Of the images nothing is read yet; raises UserError for files that are missing."""
        root, parts = _root(config), read_lists(config)
        found = {key: found_files(root, part.names) for key, part in parts.items()}
        faults = [fault for key, files in found.items() for fault in _missing_faults(config, key, files.missing)]
        if faults:
            raise UserError(*faults)
        order = by_size(parts["train_list"].labels)
        rank = np.argsort(order)
        taken = {}
        for key, files in found.items():
            images = ImageFiles(
                root, np.array(files.names), files.stamps, config.image_size, cover_of(config),
                skip_unreadable=config.unreadable == "skip", by_content=config.identified_by == "content",
                decoded_once=config.cache == "memmap", cache=Path(config.cache_dir).expanduser(),
            )  # fmt: skip
            taken[key] = images, rank[parts[key].labels]
        classes = class_names(parts["train_list"])
        names = tuple(classes[label] for label in order)
        held = taken.get("val_list") if config.validation else None
        notes = list_notes(list_paths(config), parts)
        return Arrays(*taken["train_list"], *taken["test_list"], names, held, notes)


def _root(config: ListFilesDataset) -> Path:
    return Path(config.root).expanduser()


# --- lists ----------------------------------------------------------------------------------


def list_paths(config: ListFilesDataset) -> dict[str, Path]:
    """By configuration key, the list files that are there to be read."""
    folder = _root(config) if config.lists is None else Path(config.lists).expanduser()
    names = {"train_list": config.train_list, "val_list": config.val_list, "test_list": config.test_list}
    return {key: folder / name for key, name in names.items() if name is not None}


def read_lists(config: ListFilesDataset) -> dict[str, Listed]:
    stats = {key: (path, path.stat()) for key, path in list_paths(config).items()}
    return {key: _read(path, stat.st_ctime_ns, stat.st_size) for key, (path, stat) in stats.items()}


@lru_cache(maxsize=8)
def _read(path: Path, _changed: int, _bytes: int) -> Listed:
    """A list as long as its file stays as it is. Empty lines, and those that begin with ``# ``, are passed over."""
    names, labels, problems = [], [], []
    try:
        text = _text(path.read_bytes())
    except UnicodeDecodeError as error:
        problem = f"is no text in UTF-8 ({error.reason} at byte {error.start})"
        return Listed((), np.zeros(0, np.int64), (problem,))
    for number, line in enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), 1):
        if not line.strip() or line.startswith("# "):
            continue
        try:
            name, label = _parts(line)
        except ValueError as error:
            problems.append(f"line {number} ({line.strip()[:60]!r}) {error}")
        else:
            names.append(name)
            labels.append(label)
    return Listed(tuple(names), np.array(labels, dtype=np.int64), tuple(problems))


def _text(content: bytes) -> str:
    """UTF-16 if its byte order mark says so, else UTF-8 with or without one."""
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return content.decode("utf-16" if wide else "utf-8-sig")


def _parts(line: str) -> tuple[str, int]:
    """Path and label, between which there are spaces or tabs; quotes around a path are no part of it.

    Raises:
        ValueError: with what is wrong with the line.
    """
    words = line.strip().rsplit(None, 1)
    if len(words) < 2:
        raise ValueError("is not a path and a label")
    name, label = words
    if not (label.isascii() and label.isdigit()) or len(label) > MOST_DIGITS:
        raise ValueError(f"is not a path and a label: {label[:30]!r} is no number of a class")
    if len(name) > 2 and name[0] == name[-1] and name[0] in "\"'":
        name = name[1:-1]
    if has_controls(name):
        raise ValueError("has a control character in its path")
    if leaves_root(name):
        raise ValueError("leaves the root")
    return name, int(label)


def leaves_root(name: str) -> bool:
    """Whether a path of a list points outside its root; symbolic links are the owner's own affair."""
    depth = 0
    for part in PurePosixPath(name.replace("\\", "/")).parts:
        depth += -1 if part == ".." else 1
        if depth < 0 or part == "/":
            return True
    return False


def by_size(labels: np.ndarray) -> np.ndarray:
    """The lists' labels by descending number of images [K]; stable, so that equal classes keep their order."""
    return np.argsort(-np.bincount(labels), kind="stable")


def class_names(train: Listed) -> list[str]:
    """By label of the lists [K]: the folder of all training images of the class, or the label."""
    folders: dict[int, set[str]] = {}
    for name, label in zip(train.names, train.labels.tolist(), strict=True):
        folders.setdefault(label, set()).add(PurePosixPath(name).parent.name)
    names = [min(found) if len(found := folders[label]) == 1 else "" for label in sorted(folders)]
    return names if "" not in names and len(set(names)) == len(names) else [str(label) for label in sorted(folders)]


def cover_of(config: ListFilesDataset) -> int:
    """What the shorter side is resized to in evaluation: 256 for 224 unless set outright."""
    return config.image_size * 8 // 7 if config.resize is None else config.resize


# --- faults and notes -----------------------------------------------------------------------


def _list_faults(config: ListFilesDataset) -> list[Fault]:
    parts, paths = read_lists(config), list_paths(config)
    faults = []
    for key, part in parts.items():
        if part.problems:
            faults.append(Fault(f"dataset.{key}", paths[key], listed(part.problems, 3), LINE))
        elif not part.names:
            faults.append(Fault(f"dataset.{key}", paths[key], "names no image", LINE))
    if faults:
        return faults
    faults += _number_faults(config, paths["train_list"], len(parts["train_list"].names))
    known = np.unique(parts["train_list"].labels)
    if known[-1] != len(known) - 1:
        gaps = np.setdiff1d(np.arange(len(known)), known).tolist()
        problem = f"has no image of label {listed(gaps)}, but of labels up to {known[-1]}"
        faults.append(Fault("dataset.train_list", paths["train_list"], problem, LINE))
    for key, part in parts.items():
        unknown = np.setdiff1d(part.labels, known).tolist()
        if unknown:
            problem = f"has labels without a training image: {listed(unknown)}"
            faults.append(Fault(f"dataset.{key}", paths[key], problem, f"0 to {len(known) - 1}"))
    if cover_of(config) < config.image_size:
        problem = f"is less than dataset.image_size={config.image_size}"
        faults.append(Fault("dataset.resize", config.resize, problem, f"at least {config.image_size}, or null"))
    return faults


def _number_faults(config: ListFilesDataset, path: Path, images: int) -> list[Fault]:
    if config.listed_images in (None, images):
        return []
    allowed = f"{config.listed_images:,} as published, or dataset.listed_images=null for a list of your own"
    return [Fault("dataset.train_list", path, f"names {images:,} images", allowed)]


def _missing_faults(config: ListFilesDataset, key: str, missing: Mapping[str, list[str]]) -> list[Fault]:
    path, root = list_paths(config)[key], f"below dataset.root={config.root}"
    problems = [f"names {len(names)} file(s) that {are} {root}: {listed(names)}" for are, names in missing.items()]
    return [Fault(f"dataset.{key}", path, problem) for problem in problems]


def list_notes(paths: Mapping[str, Path], parts: Mapping[str, Listed]) -> tuple[str, ...]:
    """Images that a list names more than once, and of other lists classes that are missing and images trained on."""
    notes, plain = [], {key: [posixpath.normpath(name) for name in part.names] for key, part in parts.items()}
    trained = set(plain["train_list"])
    for key, names in plain.items():
        again = sorted(name for name, times in Counter(names).items() if times > 1)
        if again:
            labels = Counter(name for name, _ in set(zip(names, parts[key].labels.tolist(), strict=True)))
            torn = sum(labels[name] > 1 for name in again)
            of_two = f", {torn} of them with different labels" if torn else ""
            notes.append(f"{paths[key]} names {len(again)} image(s) more than once{of_two}: {listed(again, 3)}")
        untested = np.setdiff1d(parts["train_list"].labels, parts[key].labels).tolist()
        if untested:
            notes.append(f"{paths[key]} has no image of {len(untested)} class(es), by label {listed(untested)}")
        if key != "train_list" and (seen := sorted(trained.intersection(names))):
            notes.append(f"{paths[key]} has {len(seen)} image(s) of {paths['train_list'].name}: {listed(seen, 3)}")
    return tuple(notes)
