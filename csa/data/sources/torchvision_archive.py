"""MNIST, Fashion-MNIST, CIFAR-10, CIFAR-100: torchvision's folders, an ``.npz``, or a download."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException
from typing import TYPE_CHECKING, Any

import numpy as np

from csa.config.dataset_schema import TorchvisionDataset
from csa.config.faults import Fault, UserError
from csa.data.sources.npz import KEYS, Complaint, inspect_npz, preview_npz, read_npz
from csa.data.sources.source import Preview, Source
from csa.data.split import Arrays

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass(frozen=True)
class Archive:
    """The published facts: where torchvision keeps the files, and what they hold."""

    folder: str
    files: tuple[str, ...]
    class_sizes: tuple[int, ...]
    image_shape: tuple[int, int, int]


IDX_FILES = tuple(f"{part}-{what}-ubyte" for part in ("train", "t10k") for what in ("images-idx3", "labels-idx1"))
CIFAR10_FILES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta")
ARCHIVES = {
    "MNIST": Archive("MNIST/raw", IDX_FILES, (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949), (1, 28, 28)),
    "FashionMNIST": Archive("FashionMNIST/raw", IDX_FILES, (6000,) * 10, (1, 28, 28)),
    "CIFAR10": Archive("cifar-10-batches-py", CIFAR10_FILES, (5000,) * 10, (3, 32, 32)),
    "CIFAR100": Archive("cifar-100-python", ("train", "test", "meta"), (500,) * 100, (3, 32, 32)),
}


class TorchvisionSource(Source[TorchvisionDataset]):
    """Looks in ``data_dir`` for torchvision's layout, then for ``<npz_name>.npz``, then downloads."""

    def inspect(self, config: TorchvisionDataset, data_dir: Path, download: bool) -> list[Fault]:
        if _has_layout(config, data_dir):
            return []
        npz = _npz(config, data_dir)
        if npz.is_file():
            complain = _complaint(data_dir)
            return inspect_npz(npz, complain) or _identity_faults(config, npz, complain)
        if download:
            return []
        return [_complaint(data_dir)(f"{config.archive} is not there, and download=false", _wanted(config))]

    def preview(self, config: TorchvisionDataset, data_dir: Path) -> Preview:
        if not _has_layout(config, data_dir) and _npz(config, data_dir).is_file():
            return preview_npz(_npz(config, data_dir))
        archive = ARCHIVES[config.archive]
        return Preview(archive.class_sizes, archive.image_shape)

    def files(self, config: TorchvisionDataset, data_dir: Path) -> list[Path]:
        if _has_layout(config, data_dir):
            return [data_dir / ARCHIVES[config.archive].folder / name for name in ARCHIVES[config.archive].files]
        return [npz for npz in [_npz(config, data_dir)] if npz.is_file()]

    def load(self, config: TorchvisionDataset, data_dir: Path, download: bool) -> Arrays:
        complain = _complaint(data_dir)
        if _has_layout(config, data_dir):
            try:
                return read_layout(config, data_dir, download=False)
            except Exception as error:  # torchvision asserts what it reads, and unpickles
                folder = data_dir / ARCHIVES[config.archive].folder
                problem = f"{config.archive} in {folder} cannot be read ({_first_line(error)})"
                raise UserError(complain(problem, f"whole files; without {folder} they are fetched anew")) from error
        if _npz(config, data_dir).is_file():
            return read_npz(_npz(config, data_dir), complain)
        if not download:
            raise UserError(*self.inspect(config, data_dir, download))
        try:
            with _leaving_no_empty_folder(data_dir / ARCHIVES[config.archive].folder):
                return read_layout(config, data_dir, download=True)
        except (OSError, RuntimeError, HTTPException) as error:
            problem = f"{config.archive} is not there and could not be downloaded ({_first_line(error)})"
            raise UserError(complain(problem, _wanted(config))) from error


def read_layout(config: TorchvisionDataset, data_dir: Path, download: bool) -> Arrays:
    """Read, and with ``download`` first fetch, through torchvision, which shows the progress."""
    import torchvision.datasets

    archive: Any = getattr(torchvision.datasets, config.archive)
    train, test = (archive(str(data_dir), train=part, download=download) for part in (True, False))
    images = [np.asarray(part.data, dtype=np.uint8) for part in (train, test)]
    train_images, test_images = (array if array.ndim == 4 else array[..., None] for array in images)
    train_labels, test_labels = (np.asarray(part.targets, dtype=np.int64) for part in (train, test))
    return Arrays(train_images, train_labels, test_images, test_labels, tuple(train.classes))


def _has_layout(config: TorchvisionDataset, data_dir: Path) -> bool:
    archive = ARCHIVES[config.archive]
    return all((data_dir / archive.folder / name).is_file() for name in archive.files)


def _npz(config: TorchvisionDataset, data_dir: Path) -> Path:
    return data_dir / f"{config.npz_name}.npz"


def _complaint(data_dir: Path) -> Complaint:
    return partial(Fault, "data_dir", str(data_dir))


def _wanted(config: TorchvisionDataset) -> str:
    keys = " ".join(KEYS)
    return f"a folder with torchvision's {ARCHIVES[config.archive].folder}/ or {config.npz_name}.npz ({keys})"


def _identity_faults(config: TorchvisionDataset, npz: Path, complain: Complaint) -> list[Fault]:
    """Whether the file holds the data set that its name says."""
    found, archive = preview_npz(npz), ARCHIVES[config.archive]
    if found.image_shape == archive.image_shape and len(found.class_sizes) == len(archive.class_sizes):
        return []

    def described(preview: Preview | Archive) -> str:
        channels, height, width = preview.image_shape
        return f"{len(preview.class_sizes)} classes of {height}x{width} images with {channels} channel(s)"

    return [complain(f"{npz.name} has {described(found)}", f"{config.archive}: {described(archive)}")]


def _first_line(error: Exception) -> str:
    """What the network or the file system said; torchvision lists mirrors on further lines."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:3]) or type(error).__name__


@contextmanager
def _leaving_no_empty_folder(folder: Path) -> Iterator[None]:
    """Remove the empty folders that a failed download has made, up to what was there before."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        yield
    except BaseException:
        for path in made:
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()
        raise
