"""Files decoded once into a uint8 file of squares, from which training crops on the device.

Written in chunks, each with its SHA-256 beside it, so that a cache that was interrupted is continued and one that
was damaged is noticed. A crop is taken from the centre square instead of the whole image: the one difference to
decoding in every epoch, and part of the data set's hash.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from torch.utils.data import DataLoader

from csa.data.cache_folder import locked
from csa.data.decoding import Ask, Decoder, as_it_is, refuse, refuse_none
from csa.data.pictures import UnreadableImageError
from csa.data.split import HOLDOUT, TEST, TRAIN

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from csa.data.image_files import ImageFiles
    from csa.data.split import Split

CHUNK = 256


def decoded_split(split: Split, workers: int) -> tuple[Split, dict[str, str]]:
    """The same split with arrays for images, and the damaged files, with the reason.

    Damaged test and validation images are left out.
    """
    damaged: dict[str, str] = {}
    (train, _), (test, test_whole), (held, held_whole) = (
        _decoded(split, part, workers, damaged) for part in (TRAIN, TEST, HOLDOUT)
    )
    whole = replace(
        split, train_images=train,
        test_images=test[test_whole], test_labels=split.test_labels[test_whole],
        holdout_images=held[held_whole], holdout_labels=split.holdout_labels[held_whole],
    )  # fmt: skip
    return whole, damaged


def _decoded(split: Split, part: str, workers: int, damaged: dict[str, str]) -> tuple[np.ndarray, slice | np.ndarray]:
    """Squares [N, S, S, 3] of a part, and which are whole: all, as a slice that copies nothing, or positions."""
    images = split.files[part]
    if not len(images):
        return np.zeros(images.decoded_shape, np.uint8), slice(None)
    pixels, unread = decoded(images, split.labels[part], split.classes, workers=workers, part=part)
    refuse_none(part, len(images) - len(unread), len(images))
    damaged |= {str(images.path(position)): why for position, why in unread.items()}
    return pixels, np.delete(np.arange(len(pixels)), list(unread)) if unread else slice(None)


def decoded(
    files: ImageFiles, labels: np.ndarray, classes: Sequence[str], *, workers: int, part: str = TRAIN
) -> tuple[np.ndarray, dict[int, str]]:
    """Squares of ``cover`` pixels, uint8 [N, cover, cover, 3], mapped from the file; and why some could not be read.

    What the file lacks is decoded first; other processes that ask for the same wait. In place of a damaged training
    image stands another of its class. labels: [N], sorted if ``part`` is ``train``. classes: their names.

    Raises:
        UnreadableImageError: a damaged file is not to be skipped, or a class has nothing else to train on.
        OSError: the folder has no room; the file is then gone again.
    """
    path = files.decoded_file(part)
    with locked(path.with_suffix(".lock")):
        done = _whole_chunks(path, files.decoded_shape)
        if len(done) * CHUNK < len(files):
            try:
                done = _decode_rest(files, labels, classes, path, done, part, workers)
            except (OSError, UnreadableImageError):
                path.unlink(missing_ok=True)
                path.with_suffix(".sums").unlink(missing_ok=True)
                raise
    damaged = {int(position): why for entry in done for position, why in entry["damaged"].items()}
    if damaged and not files.skip_unreadable:  # a run that passed over them made the file
        position, why = next(iter(damaged.items()))
        raise UnreadableImageError(f"{files.path(position)} cannot be read as an image ({why})")
    return np.memmap(path, dtype=np.uint8, mode="c", shape=files.decoded_shape), damaged


def _decode_rest(
    files: ImageFiles,
    labels: np.ndarray,
    classes: Sequence[str],
    path: Path,
    done: list[dict[str, Any]],
    part: str,
    workers: int,
) -> list[dict[str, Any]]:
    """Decode what is missing; a line about each chunk follows the chunk itself, after that is on the disk."""
    _allocate(path, int(np.prod(files.decoded_shape)))
    pixels = np.memmap(path, dtype=np.uint8, mode="r+", shape=files.decoded_shape)
    starts = range(len(done) * CHUNK, len(files), CHUNK)
    asks = [
        [Ask(part, position, None) for position in range(start, min(start + CHUNK, len(files)))] for start in starts
    ]
    decoder = Decoder({part: replace(files, side=files.cover)}, labels)
    chunks = DataLoader(decoder, batch_sampler=asks, num_workers=workers, collate_fn=as_it_is)
    sums = path.with_suffix(".sums")
    sums.write_text("".join(_line(entry) for entry in done))
    for start, group, (images, damaged) in zip(starts, asks, chunks, strict=True):
        for damage in damaged:
            refuse(files, group[damage.position], damage, classes[labels[start + damage.position]])
        pixels[start : start + len(group)] = images.numpy()
        pixels.flush()
        digest = _digest(pixels[start : start + len(group)])
        done.append({"sha256": digest, "damaged": {start + damage.position: damage.reason for damage in damaged}})
        with sums.open("a") as stream:
            stream.write(_line(done[-1]))
    return done


def _allocate(path: Path, size: int) -> None:
    """The whole file, now: a disk that fills up under mapped memory would kill the process."""
    with path.open("ab") as stream:
        try:
            os.posix_fallocate(stream.fileno(), 0, size)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error


def _whole_chunks(path: Path, shape: tuple[int, ...]) -> list[dict[str, Any]]:
    """What is told of the chunks from the first to the last that is as it was written."""
    sums = path.with_suffix(".sums")
    if not (path.is_file() and sums.is_file() and path.stat().st_size == int(np.prod(shape))):
        return []
    pixels = np.memmap(path, dtype=np.uint8, mode="r", shape=shape)
    whole: list[dict[str, Any]] = []
    for line in sums.read_text().splitlines():
        start = len(whole) * CHUNK
        try:
            entry = json.loads(line)
            if entry["sha256"] != _digest(pixels[start : start + CHUNK]):
                break
        except (ValueError, KeyError, TypeError):
            break
        whole.append(entry)
    return whole


def _digest(pixels: np.ndarray) -> str:
    return hashlib.sha256(pixels.data).hexdigest()


def _line(entry: dict[str, Any]) -> str:
    return json.dumps(entry) + "\n"
