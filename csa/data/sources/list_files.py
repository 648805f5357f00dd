"""Image files named by lists: lines ``relative/path label``, as ImageNet-LT, Places-LT and iNaturalist have them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from csa.config.faults import Fault, UserError
from csa.config.schema import ListFilesDataset
from csa.data.image_files import ImageFiles, file_sizes
from csa.data.sources.source import Preview, Source, listed
from csa.data.split import Arrays

if TYPE_CHECKING:
    from collections.abc import Sequence

LINE = "lines of a path relative to dataset.root, a space and a label counted from 0"


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
        if not Path(config.root).expanduser().is_dir():
            faults.append(Fault("dataset.root", config.root, "there is no such folder", "the folder of the images"))
        if config.mean is None or config.std is None:
            problem = "cannot be measured without reading every image"
            faults.append(Fault("dataset.mean", "null", problem, "a number a channel, and as many in dataset.std"))
        for key, path in list_paths(config).items():
            if not path.is_file():
                faults.append(Fault(f"dataset.{key}", path, "there is no such file", "a list file"))
        return faults or _list_faults(config)

    def preview(self, config: ListFilesDataset, data_dir: Path) -> Preview:
        sizes = np.sort(np.bincount(read_lists(config)["train_list"].labels))[::-1]
        return Preview(tuple(sizes.tolist()), (3, config.image_size, config.image_size))

    def files(self, config: ListFilesDataset, data_dir: Path) -> list[Path]:
        paths, root = list_paths(config), Path(config.root).expanduser()
        names = (name for part in read_lists(config).values() for name in part.names)
        return [*paths.values(), *(path for name in names if (path := root / name).is_file())]

    def load(self, config: ListFilesDataset, data_dir: Path, download: bool) -> Arrays:
        """Only the lists are read, and the sizes of the files asked for; raises UserError for missing files."""
        root, parts = Path(config.root).expanduser(), read_lists(config)
        order = by_size(parts["train_list"].labels)
        rank = np.argsort(order)
        taken, missing = {}, {}
        for key, part in parts.items():
            sizes, missing[key] = file_sizes(root, part.names)
            images = ImageFiles(
                root, np.array(part.names), sizes, config.image_size, cover_of(config),
                skip_unreadable=config.unreadable == "skip",
                cache=Path(config.cache_dir).expanduser() if config.cache == "memmap" else None,
            )  # fmt: skip
            taken[key] = images, rank[part.labels]
        faults = [missing_fault(config, key, names) for key, names in missing.items() if names]
        if faults:
            raise UserError(*faults)
        classes = class_names(parts["train_list"])
        held = taken.get("val_list") if config.validation else None
        return Arrays(*taken["train_list"], *taken["test_list"], tuple(classes[label] for label in order), held)


# --- lists ----------------------------------------------------------------------------------


def list_paths(config: ListFilesDataset) -> dict[str, Path]:
    """By configuration key, the list files that are there to be read."""
    folder = Path(config.lists).expanduser()
    names = {"train_list": config.train_list, "val_list": config.val_list, "test_list": config.test_list}
    return {key: folder / name for key, name in names.items() if name is not None}


def read_lists(config: ListFilesDataset) -> dict[str, Listed]:
    stats = {key: (path, path.stat()) for key, path in list_paths(config).items()}
    return {key: _read(path, stat.st_mtime_ns, stat.st_size) for key, (path, stat) in stats.items()}


@lru_cache(maxsize=8)
def _read(path: Path, _changed: int, _bytes: int) -> Listed:
    """A list as long as its file stays as it is."""
    names, labels, problems = [], [], []
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
        name, _, label = line.strip().rpartition(" ")
        if not line.strip():
            continue
        if not name or not label.isdecimal():
            problems.append(f"line {number} ({line.strip()[:60]!r}) is not a path and a label")
        elif leaves_root(name):
            problems.append(f"line {number} ({name!r}) leaves the root")
        else:
            names.append(name.strip())
            labels.append(int(label))
    return Listed(tuple(names), np.array(labels, dtype=np.int64), tuple(problems))


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


# --- faults ---------------------------------------------------------------------------------


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
    if config.validation and config.val_list is None:
        faults.append(Fault("dataset.validation", "true", "needs dataset.val_list", "false, or a list"))
    sizes = np.bincount(parts["train_list"].labels)
    if (sizes == 0).any():
        gaps = np.flatnonzero(sizes == 0).tolist()
        faults.append(Fault("dataset.train_list", paths["train_list"], f"has no image of label {listed(gaps)}", LINE))
    for key, part in parts.items():
        unknown = sorted(set(part.labels[part.labels >= len(sizes)].tolist()))
        if unknown:
            problem = f"has labels without a training image: {listed(unknown)}"
            faults.append(Fault(f"dataset.{key}", paths[key], problem, f"0 to {len(sizes) - 1}"))
    if cover_of(config) < config.image_size:
        problem = f"is less than dataset.image_size={config.image_size}"
        faults.append(Fault("dataset.resize", config.resize, problem, f"at least {config.image_size}, or null"))
    return faults


def missing_fault(config: ListFilesDataset, key: str, names: Sequence[str]) -> Fault:
    problem = f"names {len(names)} file(s) that are not below dataset.root={config.root}: {listed(names)}"
    return Fault(f"dataset.{key}", list_paths(config)[key], problem)
