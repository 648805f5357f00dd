"""From a data set's configuration to the split that is trained on. Imports no torch."""

from __future__ import annotations

import hashlib
import math
from contextlib import contextmanager
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from csa.config.blocks import named_class
from csa.config.faults import Fault, UserError, printable
from csa.config.host import GIGABYTE, process_world, total_memory, visible_gpus
from csa.data.cache_folder import room_faults
from csa.data.image_files import ImageFiles
from csa.data.long_tail import (
    count_faults,
    group_faults,
    groups_by_count,
    groups_by_rank,
    select,
    set_aside,
    wanted_counts,
)
from csa.data.sources.source import Preview, Source
from csa.data.split import HOLDOUT, TEST, TRAIN, Arrays, Images, Split, name_faults

if TYPE_CHECKING:
    from collections.abc import Iterator

    from csa.config.schema import Config, DatasetConfig

# --- what is known beforehand ---------------------------------------------------------------


def inspect(config: DatasetConfig, data_dir: str | Path, download: bool) -> list[Fault]:
    """Everything wrong with the data set that shows without downloading it or reading its images."""
    source, folder = source_of(config), _folder(data_dir)
    with _telling_of_files(config):
        faults = source.inspect(config, folder, download)
        known = None if faults else source.preview(config, folder)
    return faults if known is None else subset_faults(config, known)


def preview(config: DatasetConfig, data_dir: str | Path) -> Preview | None:
    """Class sizes and image shape where they are cheaply known; only after ``inspect`` found no fault."""
    return source_of(config).preview(config, _folder(data_dir))


def subset_faults(config: DatasetConfig, known: Preview) -> list[Fault]:
    """What of the configuration does not go with these class sizes and images."""
    num_classes, channels = len(known.class_sizes), known.image_shape[0]
    if num_classes < 2:
        return [Fault("dataset.name", config.name, "has a single class", "a data set of at least two classes")]
    faults = count_faults(config, known.class_sizes) + group_faults(config, num_classes)
    for name, values in (("mean", config.mean), ("std", config.std)):
        if values is not None and len(values) != channels:
            problem = f"images have {channels} channel(s)"
            faults.append(Fault(f"dataset.{name}", values, problem, f"{channels} value(s), or null to measure"))
    if config.std is not None and min(config.std, default=1) <= 0:
        faults.append(Fault("dataset.std", config.std, "images are divided by it", "values above 0"))
    asked = {"dataset.holdout": config.holdout, "dataset.holdout_share": config.holdout_share}
    problem = "sets images aside, and the data set brings validation images of its own"
    return faults + [Fault(key, value, problem, "0") for key, value in asked.items() if known.validation and value]


def has_validation(config: DatasetConfig, known: Preview | None) -> bool:
    """Whether there will be validation images; of data that cannot be known beforehand it is hoped."""
    return bool(config.holdout or config.holdout_share) or known is None or known.validation


def validation_images(config: DatasetConfig, known: Preview | None) -> int | None:
    """How many are taken from the training images; None of data that brings its own or cannot be known beforehand."""
    if known is None or known.validation:
        return None
    counts = wanted_counts(config, known.class_sizes)
    return config.holdout * len(counts) + sum(set_aside(counts, config.holdout_share))


# --- memory ---------------------------------------------------------------------------------

LEAST_PROCESS_BYTES, LEAST_WORKER_BYTES, LEAST_PIXEL_BYTES = 0.3e9, 0.05e9, 50.0
"""Of Python, torch and csa; of a process that decodes images; of a pixel of a step in a network nobody has measured."""
FLOAT_BYTES = 4.0


def memory_faults(config: Config, known: Preview) -> list[Fault]:
    """Whether the run cannot have the memory that it needs, by what is known of its data.

    Estimated from below: what is refused cannot run here; what is not may still run out of memory.
    """
    total = total_memory()
    if least_memory(config, known) <= total:
        return []
    needs, of_steps = memory_needs(config, known)
    if config.runtime.device in ("cpu", "mps") or not visible_gpus():
        needs |= of_steps
    needed = LEAST_PROCESS_BYTES + sum(needs.values())
    key, *others = sorted(needs, key=lambda name: -needs[name])
    allowed = " or ".join([f"less of {key}", *(name for name in others if needs[name] > total / 10)])
    problem = f"the run needs {needed / GIGABYTE:,.1f} GB of memory or more, and there are {total / GIGABYTE:,.1f} GB"
    return [Fault(key, attrgetter(key)(config), problem, allowed)] if needed > total else []


def least_memory(config: Config, known: Preview) -> float:
    """Bytes that a run takes at least, on whatever device."""
    return LEAST_PROCESS_BYTES + sum(sum(needs.values()) for needs in memory_needs(config, known))


def memory_needs(config: Config, known: Preview) -> tuple[dict[str, float], dict[str, float]]:
    """Bytes beside the process itself by the keys that decide them: on the host; where steps are computed."""
    channels, height, width = known.image_shape
    protocol, padding = config.protocol, 2 * config.protocol.crop_padding
    pixels, padded = height * width, (height + padding) * (width + padding)
    taken = sum(wanted_counts(config.dataset, known.class_sizes))
    if known.in_memory:
        images = "dataset.image_size" if hasattr(config.dataset, "image_size") else "dataset.name"
        pool = channels * pixels * (sum(known.class_sizes) + taken)
        needs: dict[str, float] = {images: pool, "protocol.crop_padding": channels * taken * (padded - pixels)}
    else:
        needs = {"runtime.workers": LEAST_WORKER_BYTES * (config.runtime.workers or 0)}
    pixel_bytes = LEAST_PIXEL_BYTES if config.backbone.pixel_bytes is None else config.backbone.pixel_bytes
    step = min(protocol.batch_size // process_world().size, taken) * config.method.passes()
    of_steps = {"protocol.batch_size": step * pixels * pixel_bytes / (1 if protocol.precision == "fp32" else 2)}
    for key, number in config.method.kept_images(protocol).items():
        of_steps[key] = of_steps.get(key, 0) + FLOAT_BYTES * number * (channels + 1) * pixels
    return needs, of_steps


# --- what is read ---------------------------------------------------------------------------


def load(config: DatasetConfig, data_dir: str | Path, download: bool) -> Arrays:
    """The whole data set; raises ``UserError`` with every fault."""
    faults = inspect(config, data_dir, download)
    if faults:
        raise UserError(*faults)
    with _telling_of_files(config):
        arrays = source_of(config).load(config, _folder(data_dir), download)
    faults = name_faults(config.name, arrays.classes) + _label_faults(config, arrays)
    if faults:
        raise UserError(*faults)
    return replace(arrays, notes=tuple(map(printable, arrays.notes)))


def _label_faults(config: DatasetConfig, arrays: Arrays) -> list[Fault]:
    """Whether each image has a label, and each label a class: sources read damaged files too."""
    parts = [(TRAIN, arrays.train_images, arrays.train_labels), (TEST, arrays.test_images, arrays.test_labels)]
    faults = []
    for part, images, labels in [*parts, *([(HOLDOUT, *arrays.held)] if arrays.held else [])]:
        if len(images) != len(labels):
            faults.append(Fault("dataset", config.name, f"has {len(images)} {part} images and {len(labels)} labels"))
        elif len(labels) and not 0 <= labels.min() <= labels.max() < len(arrays.classes):
            problem = f"has {part} labels from {labels.min()} to {labels.max()}"
            faults.append(Fault("dataset", config.name, problem, f"0 to {len(arrays.classes) - 1}"))
    return faults


@contextmanager
def _telling_of_files(config: DatasetConfig) -> Iterator[None]:
    """Whatever the file system refuses is the user's to mend."""
    try:
        yield
    except OSError as error:
        raise UserError(Fault("dataset", config.name, f"its files cannot be read ({error})")) from error


def load_split(config: DatasetConfig, data_dir: str | Path, download: bool) -> Split:
    """Read the data set and take its long-tailed subset; raises ``UserError`` with every fault."""
    source, arrays = source_of(config), load(config, data_dir, download)
    _, height, width, channels = arrays.train_images.shape
    sizes = np.bincount(arrays.train_labels, minlength=len(arrays.classes)).tolist()
    known = Preview(tuple(sizes), (channels, height, width), validation=arrays.held is not None)
    faults = subset_faults(config, known)
    if faults:
        raise UserError(*faults)
    counts = wanted_counts(config, sizes)
    kept, held = select(arrays.train_labels, counts, config.split_seed, config.holdout, config.holdout_share)
    labels = source.relabel(config, arrays.train_labels[kept], len(counts))
    order = np.argsort(labels, kind="stable")
    kept, labels, held_labels = kept[order], labels[order], arrays.train_labels[held]
    images = source.training_images(config, arrays, kept, labels)
    validation = arrays.held or (source.training_images(config, arrays, held, held_labels), held_labels)
    return _split(config, replace(arrays, train_images=images, train_labels=labels, held=validation))


def _split(config: DatasetConfig, chosen: Arrays) -> Split:
    """Counts and groups are those of the labels that training sees, flipped ones included."""
    assert chosen.held
    images, labels = chosen.train_images, chosen.train_labels
    counts = np.bincount(labels, minlength=len(chosen.classes)).tolist()
    mean, std = measure(images) if isinstance(images, np.ndarray) else ((), ())
    parts = (images, labels, chosen.test_images, chosen.test_labels, *chosen.held)
    return Split(
        config.name,
        *parts,
        classes=chosen.classes,
        counts=tuple(counts),
        by_rank=groups_by_rank(counts, config.groups),
        by_count=groups_by_count(counts),
        mean=mean if config.mean is None else tuple(config.mean),
        std=std if config.std is None else tuple(config.std),
        hash=content_hash(parts, chosen.classes),
        notes=chosen.notes,
    )


def cache_faults(split: Split) -> list[Fault]:
    """Whether there is room for what is to be decoded once; nothing where nothing is."""
    files = {name: images for name, images in split.files.items() if images.decoded_once}
    sizes = {images.decoded_file(name): math.prod(images.decoded_shape) for name, images in files.items()}
    lacking = sum(size for path, size in sizes.items() if not path.is_file())
    return room_faults(split.files[TRAIN].cache, lacking) if lacking else []


def measure(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel in [0, 1]; a constant channel is divided by 1.

    Counted by grey level, which is exact and needs no copy of the images as floats.
    """
    levels = np.arange(256) / 255
    means, deviations = [], []
    for channel in range(images.shape[-1]):
        fractions = np.bincount(images[..., channel].ravel(), minlength=256) / images[..., channel].size
        mean = float(fractions @ levels)
        means.append(mean)
        deviations.append(float(np.sqrt(fractions @ (levels - mean) ** 2)) or 1.0)
    return tuple(means), tuple(deviations)


def content_hash(arrays: tuple[Images, ...], classes: tuple[str, ...]) -> str:
    """SHA-256 (hex) of images and labels of training subset, test set and validation images, and the names.

    The order of the images counts, since a seed draws by position.
    """
    digest = hashlib.sha256()
    for array in arrays:
        if isinstance(array, ImageFiles):
            digest.update(array.digest())
            continue
        plain = np.ascontiguousarray(array, dtype=np.uint8 if array.dtype == np.uint8 else "<i8")
        digest.update(f"{plain.dtype.str}{plain.shape}".encode())
        digest.update(plain.data)
    digest.update(repr(classes).encode())
    return digest.hexdigest()


def source_of(config: DatasetConfig) -> Source[Any]:
    return named_class("dataset.source", config.source, Source)()


def _folder(data_dir: str | Path) -> Path:
    return Path(data_dir).expanduser()
