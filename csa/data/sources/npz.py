"""Arrays in an ``.npz`` file: x_train y_train x_test y_test; if there are, x_val y_val, and class names in ``classes``.

Files come from anywhere: headers are read before data, what they declare is compared with what is there, and pickles
are never read.
"""

from __future__ import annotations

import math
import zipfile
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.lib import format as npy

from csa.config.dataset_schema import NpzDataset
from csa.config.faults import Fault, UserError, first_line, listed, nearest
from csa.config.host import GIGABYTE, free_memory
from csa.data.pictures import unit_to_bytes
from csa.data.sources.source import Preview, Source
from csa.data.split import Arrays

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

KEYS = ("x_train", "y_train", "x_test", "y_test")
VALIDATION = ("x_val", "y_val")
READ = (*KEYS, *VALIDATION, "classes")
IMAGES = "uint8 (or uint16, or floats from 0 to 1) [N, H, W] or [N, H, W, C] with 1 or 3 channels"
LABELS = "integers [N]"
WANTED = f"an .npz file with {' '.join(KEYS)}"
DEFLATED_MOST = 1032
"""Bytes that a byte of a deflated entry can stand for."""
AT_ONCE = 1024


@dataclass(frozen=True)
class Header:
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Contents:
    """Names of all arrays in the order of the file, and headers of those that are read here."""

    names: list[str]
    headers: dict[str, Header]

    def notes(self, file: str) -> tuple[str, ...]:
        others = [name for name in self.names if name not in self.headers]
        return (f"left out of {file}: {len(others)} array(s): {listed(others)}",) if others else ()


class Complaint(Protocol):
    """Makes a fault of what is wrong with the file: its key and value are the caller's."""

    def __call__(self, problem: str, allowed: str = "", nearest: str = "") -> Fault: ...


@contextmanager
def reading(path: Path, complain: Complaint) -> Iterator[None]:
    """Whatever a damaged file makes its readers raise is told of the file, as a ``UserError``."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        problem = f"{path.name} cannot be read as an .npz file ({first_line(error)})"
        raise UserError(complain(problem, WANTED)) from error


def read_contents(path: Path) -> Contents:
    """Shape and dtype of the arrays, without reading one. Raises what zip and numpy raise, and ValueError."""
    with zipfile.ZipFile(path) as archive:
        entries = [(entry.filename.removesuffix(".npy"), entry) for entry in archive.infolist()]
        names = [name for name, _ in entries]
        twice = [name for name, times in Counter(names).items() if times > 1]
        if twice:
            raise ValueError(f"{listed(twice)} stands in it more than once")
        return Contents(names, {name: _header(archive, entry) for name, entry in entries if name in READ})


def _header(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Header:
    """Of an entry that holds as many bytes as its header and the archive say."""
    with archive.open(entry.filename) as stream:
        version = npy.read_magic(stream)
        if version not in ((1, 0), (2, 0), (3, 0)):
            raise ValueError(f"{entry.filename} has format {version[0]}.{version[1]}, which numpy does not know")
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read(stream)
        header, held = Header(shape, dtype), entry.file_size - stream.tell()
    if not dtype.hasobject and header.bytes != held:
        raise ValueError(f"{entry.filename} declares {dtype} {list(shape)}, {header.bytes:,} bytes, and has {held:,}")
    deflated = entry.compress_type == zipfile.ZIP_DEFLATED
    if entry.file_size > entry.compress_size * (DEFLATED_MOST if deflated else 1) + DEFLATED_MOST:
        raise ValueError(f"{entry.filename} declares more bytes than its {entry.compress_size:,} packed ones can hold")
    return header


def inspect_npz(path: Path, complain: Complaint) -> list[Fault]:
    """Everything wrong with the file's keys, shapes, dtypes and labels."""
    if not path.is_file():
        return [complain("is not a file" if path.exists() else "there is no such file", WANTED)]
    try:
        with reading(path, complain):
            contents = read_contents(path)
            headers = contents.headers
            return (
                _missing_keys(path, contents, complain)
                or header_faults(headers, complain)
                or label_faults(path, "classes" in headers, complain)
            )
    except UserError as error:
        return list(error.faults)


def _missing_keys(path: Path, contents: Contents, complain: Complaint) -> list[Fault]:
    wanted = KEYS if set(VALIDATION).isdisjoint(contents.headers) else (*KEYS, *VALIDATION)
    missing = [key for key in wanted if key not in contents.headers]
    if not missing:
        return []
    problem = f"{path.name} has no key {', '.join(missing)}; its keys are {listed(sorted(contents.names)) or 'none'}"
    return [complain(problem, " ".join(wanted), nearest(missing[0], set(contents.names) - set(READ)))]


def header_faults(headers: dict[str, Header], complain: Complaint) -> list[Fault]:
    faults = []
    for key, header in sorted(headers.items(), key=lambda item: READ.index(item[0])):
        stored = f"{key} is {header.dtype} {list(header.shape)}"
        if header.dtype.hasobject:
            faults.append(complain(f"{key} is an object array, which would need a pickle", "plain arrays"))
        elif key.startswith("x") and not _are_images(header):
            faults.append(complain(stored, f"{key} as {IMAGES}"))
        elif key.startswith("y") and not (header.dtype.kind in "iu" and len(header.shape) == 1):
            faults.append(complain(stored, f"{key} as {LABELS}"))
        elif key == "classes" and not (header.dtype.kind == "U" and len(header.shape) == 1):
            faults.append(complain(stored, "classes as strings [K]"))
    return faults or size_faults(headers, complain)


def _are_images(header: Header) -> bool:
    known = header.dtype == np.uint8 or header.dtype.kind == "f" or header.dtype.newbyteorder("=") == np.uint16
    channels = header.shape[3:] or (1,)
    return known and len(header.shape) in (3, 4) and min(header.shape) > 0 and channels[0] in (1, 3)


def size_faults(headers: dict[str, Header], complain: Complaint) -> list[Fault]:
    faults = []
    train = headers["x_train"].shape[1:]
    for part, name in (("train", "training"), ("test", "test"), ("val", "validation")):
        if f"x_{part}" not in headers:
            continue
        images, labels = headers[f"x_{part}"].shape, headers[f"y_{part}"].shape[0]
        if images[0] != labels:
            faults.append(complain(f"x_{part} holds {images[0]} images, y_{part} {labels} labels", "as many of both"))
        if images[1:] != train:
            problem = f"training images are {list(train)}, {name} images {list(images[1:])}"
            faults.append(complain(problem, "one size for both"))
    needed, free = sum(header.bytes for header in headers.values()), free_memory()
    if needed > free:
        faults.append(complain(f"its arrays take {needed / GIGABYTE:,.1f} GB; {free / GIGABYTE:,.1f} GB are free"))
    return faults


def label_faults(path: Path, named: bool, complain: Complaint) -> list[Fault]:
    """Labels must be 0..K-1, each trained and tested; K is the number of names, else the largest label."""
    with np.load(path, allow_pickle=False) as arrays:
        labels = {key: arrays[key] for key in ("y_train", "y_test", "y_val") if key in arrays}
        num_classes = len(arrays["classes"]) if named else int(labels["y_train"].max()) + 1
    faults = []
    for key, values in labels.items():
        present = np.unique(values)
        outside = present[(present < 0) | (present >= num_classes)]
        inside = present[(present >= 0) & (present < num_classes)]
        if outside.size:
            faults.append(complain(f"{key} holds labels {listed(outside.tolist())}", f"0 to {num_classes - 1}"))
        elif len(inside) < num_classes and key != "y_val":
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
    headers = read_contents(path).headers
    _, height, width, *last = headers["x_train"].shape
    with np.load(path, allow_pickle=False) as arrays:
        sizes = np.bincount(arrays["y_train"].astype(np.int64))
    return Preview(tuple(sizes.tolist()), (last[0] if last else 1, height, width), validation="x_val" in headers)


def read_npz(path: Path, complain: Complaint) -> Arrays:
    """The arrays of a file without faults; images as uint8, greyscale ones with a channel axis.

    Raises:
        UserError: the file is damaged, or the scale of its images is not known.
    """
    with reading(path, complain):
        contents = read_contents(path)
        with np.load(path, allow_pickle=False) as file:
            parts = {
                part: (_bytes(f"x_{part}", file[f"x_{part}"], complain), file[f"y_{part}"].astype(np.int64))
                for part in ("train", "test", "val")
                if f"x_{part}" in file
            }
            largest = parts["train"][1].max()
            names: Sequence[object] = file["classes"] if "classes" in file else range(largest + 1)
    classes = tuple(map(str, names))
    return Arrays(*parts["train"], *parts["test"], classes, parts.get("val"), contents.notes(path.name))


def _bytes(key: str, images: np.ndarray, complain: Complaint) -> np.ndarray:
    """Images of any dtype as uint8 [N, H, W, C]: the high byte of two, floats in [0, 1] as 255 steps."""
    images = images if images.ndim == 4 else images[..., None]
    if images.dtype == np.uint8:
        return images
    scaled = np.empty(images.shape, np.uint8)
    if images.dtype.kind == "u" and images.max() < 2**15:
        problem = f"{key} is uint16 and ends at {images.max()}, so that the value of white is not known"
        raise UserError(complain(problem, "the whole range to 65535, uint8, or floats from 0 to 1"))
    for start in range(0, len(images), AT_ONCE):
        few = images[start : start + AT_ONCE]
        try:
            scaled[start : start + AT_ONCE] = few >> 8 if images.dtype.kind == "u" else unit_to_bytes(few)
        except ValueError as error:
            raise UserError(complain(f"{key}: {error}", f"{key} as {IMAGES}")) from error
    return scaled


class NpzSource(Source[NpzDataset]):
    """Anyone's arrays; ``dataset.path`` is taken from the working directory."""

    def inspect(self, config: NpzDataset, data_dir: Path, download: bool) -> list[Fault]:
        if config.path is None:
            return [Fault("dataset.path", None, "is not set", WANTED)]
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
