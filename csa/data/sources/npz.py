"""Arrays in an ``.npz`` file: x_train y_train x_test y_test, and class names in ``classes`` if there are.

Files come from anywhere: headers are read before data, and pickles never.
"""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.lib import format as npy

from csa.config.faults import Fault, UserError, nearest
from csa.config.schema import NpzDataset
from csa.data.sources.source import Preview, Source, listed
from csa.data.split import Arrays

if TYPE_CHECKING:
    from collections.abc import Sequence

KEYS = ("x_train", "y_train", "x_test", "y_test")
UNREADABLE = (OSError, ValueError, zipfile.BadZipFile, zlib.error, KeyError)
IMAGES = "uint8 [N, H, W] or [N, H, W, C] with 1 or 3 channels"
LABELS = "integers [N]"


@dataclass(frozen=True)
class Header:
    shape: tuple[int, ...]
    dtype: np.dtype


class Complaint(Protocol):
    """Makes a fault of what is wrong with the file: its key and value are the caller's."""

    def __call__(self, problem: str, allowed: str = "", nearest: str = "") -> Fault: ...


def read_headers(path: Path) -> dict[str, Header]:
    """Shape and dtype of every array in the file, without reading one."""
    headers = {}
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            with archive.open(name) as stream:
                version = npy.read_magic(stream)
                read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
                shape, _, dtype = read(stream)
            headers[name.removesuffix(".npy")] = Header(shape, dtype)
    return headers


def inspect_npz(path: Path, complain: Complaint) -> list[Fault]:
    """Everything wrong with the file's keys, shapes, dtypes and labels."""
    wanted = f"an .npz file with {' '.join(KEYS)}"
    if not path.is_file():
        return [complain("is not a file" if path.exists() else "there is no such file", wanted)]
    try:
        headers = read_headers(path)
    except UNREADABLE as error:
        return [complain(f"{path.name} is not a readable .npz file ({error})", wanted)]
    missing = [key for key in KEYS if key not in headers]
    if missing:
        found = listed(sorted(headers)) or "none"
        problem = f"{path.name} has no key {', '.join(missing)}; its keys are {found}"
        return [complain(problem, " ".join(KEYS), nearest(missing[0], set(headers) - set(KEYS)))]
    return header_faults(headers, complain) or label_faults(path, "classes" in headers, complain)


def header_faults(headers: dict[str, Header], complain: Complaint) -> list[Fault]:
    faults = []
    for key in (*KEYS, *(["classes"] if "classes" in headers else [])):
        header = headers[key]
        told = f"{key} is {header.dtype} {list(header.shape)}"
        if header.dtype.hasobject:
            faults.append(complain(f"{key} is an object array, which would need a pickle", "plain arrays"))
        elif key.startswith("x") and not _are_images(header):
            faults.append(complain(told, f"{key} as {IMAGES}"))
        elif key.startswith("y") and not (header.dtype.kind in "iu" and len(header.shape) == 1):
            faults.append(complain(told, f"{key} as {LABELS}"))
        elif key == "classes" and not (header.dtype.kind == "U" and len(header.shape) == 1):
            faults.append(complain(told, "classes as strings [K]"))
    return faults or size_faults(headers, complain)


def _are_images(header: Header) -> bool:
    channels = header.shape[3:] or (1,)
    return header.dtype == np.uint8 and len(header.shape) in (3, 4) and min(header.shape) > 0 and channels[0] in (1, 3)


def size_faults(headers: dict[str, Header], complain: Complaint) -> list[Fault]:
    faults = []
    for part in ("train", "test"):
        images, labels = headers[f"x_{part}"].shape[0], headers[f"y_{part}"].shape[0]
        if images != labels:
            faults.append(complain(f"x_{part} holds {images} images, y_{part} {labels} labels", "as many of both"))
    train, test = headers["x_train"].shape[1:], headers["x_test"].shape[1:]
    if train != test:
        faults.append(complain(f"training images are {list(train)}, test images {list(test)}", "one size for both"))
    return faults


def label_faults(path: Path, named: bool, complain: Complaint) -> list[Fault]:
    """Labels must be 0..K-1, each in both parts; K is the number of names, else the largest label."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            labels = {key: arrays[key] for key in ("y_train", "y_test")}
            num_classes = len(arrays["classes"]) if named else int(labels["y_train"].max()) + 1
    except UNREADABLE as error:
        return [complain(f"{path.name} cannot be read ({error})", "a whole .npz file")]
    faults = []
    for key, values in labels.items():
        present = np.unique(values)
        outside = present[(present < 0) | (present >= num_classes)]
        inside = present[(present >= 0) & (present < num_classes)]
        if outside.size:
            faults.append(complain(f"{key} holds labels {listed(outside.tolist())}", f"0 to {num_classes - 1}"))
        elif len(inside) < num_classes:
            unseen = _first_gap(inside)
            problem = f"{key} has no image of class {unseen} ({num_classes - len(inside)} of {num_classes} missing)"
            faults.append(complain(problem, f"every class 0 to {num_classes - 1}"))
    return faults


def _first_gap(present: np.ndarray) -> int:
    """The smallest label from 0 that the sorted, distinct labels leave out; K may be absurdly large here."""
    misplaced = np.flatnonzero(present != np.arange(len(present)))
    return int(misplaced[0]) if misplaced.size else len(present)


def preview_npz(path: Path) -> Preview:
    """Of a file without faults."""
    _, height, width, *last = read_headers(path)["x_train"].shape
    with np.load(path, allow_pickle=False) as arrays:
        sizes = np.bincount(arrays["y_train"].astype(np.int64))
    return Preview(tuple(sizes.tolist()), (last[0] if last else 1, height, width))


def read_npz(path: Path, complain: Complaint) -> Arrays:
    """The arrays of a file without faults; greyscale images get a channel axis."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files if key in (*KEYS, "classes")}
    except UNREADABLE as error:
        raise UserError(complain(f"{path.name} cannot be read ({error})", "a whole .npz file")) from error
    images = {key: arrays[key] if arrays[key].ndim == 4 else arrays[key][..., None] for key in ("x_train", "x_test")}
    labels = {key: arrays[key].astype(np.int64) for key in ("y_train", "y_test")}
    names: Sequence[object] = arrays.get("classes", range(labels["y_train"].max() + 1))
    classes = tuple(map(str, names))
    return Arrays(images["x_train"], labels["y_train"], images["x_test"], labels["y_test"], classes)


class NpzSource(Source[NpzDataset]):
    """Anyone's arrays; ``dataset.path`` is taken from the working directory."""

    def inspect(self, config: NpzDataset, data_dir: Path, download: bool) -> list[Fault]:
        if config.path is None:
            return [Fault("dataset.path", None, "is not set", f"an .npz file with {' '.join(KEYS)}")]
        return inspect_npz(_path(config), _complaint(config))

    def preview(self, config: NpzDataset, data_dir: Path) -> Preview:
        return preview_npz(_path(config))

    def files(self, config: NpzDataset, data_dir: Path) -> list[Path]:
        return [_path(config)]

    def load(self, config: NpzDataset, data_dir: Path, download: bool) -> Arrays:
        return read_npz(_path(config), _complaint(config))


def _path(config: NpzDataset) -> Path:
    return Path(config.path or "").expanduser()


def _complaint(config: NpzDataset) -> Complaint:
    return partial(Fault, "dataset.path", config.path)
