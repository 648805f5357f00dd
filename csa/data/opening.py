"""Which loader a split is read by."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from csa.data.decoding import HOLDOUT, TEST, TRAIN
from csa.data.image_files import ImageFiles
from csa.data.loader import ResidentLoader
from csa.data.share import ALONE, Share
from csa.data.streaming import StreamingLoader

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from csa.config.schema import ProtocolConfig
    from csa.data.loader import Loader
    from csa.data.split import Images, Split


def open_loader(
    split: Split,
    protocol: ProtocolConfig,
    device: torch.device | str,
    seed: int,
    *,
    workers: int,
    share: Share = ALONE,
) -> Loader:
    """Images in memory, in a file of decoded ones, or decoded by ``workers`` processes as they are needed.

    Raises:
        UnreadableImageError: images are decoded now, and one is damaged that may not be passed over.
    """
    if not isinstance(split.train_images, ImageFiles):
        return ResidentLoader(split, protocol, device, seed, share=share)
    if split.train_images.cache is None:
        return StreamingLoader(split, protocol, device, seed, workers=workers, share=share)
    return ResidentLoader(
        decoded_split(split, workers), protocol, device, seed, share=share, image_shape=split.image_shape
    )


def decoded_split(split: Split, workers: int) -> Split:
    """The same split with arrays for images; damaged test and validation images are left out."""
    train, _ = _decoded(split.train_images, split.train_labels, split.classes, workers, TRAIN)
    test, test_whole = _decoded(split.test_images, split.test_labels, split.classes, workers, TEST)
    held, held_whole = _decoded(split.holdout_images, split.holdout_labels, split.classes, workers, HOLDOUT)
    return replace(
        split, train_images=train,
        test_images=test[test_whole], test_labels=split.test_labels[test_whole],
        holdout_images=held[held_whole], holdout_labels=split.holdout_labels[held_whole],
    )  # fmt: skip


def _decoded(
    images: Images, labels: np.ndarray, classes: Sequence[str], workers: int, part: str
) -> tuple[np.ndarray, slice | np.ndarray]:
    """Squares [N, S, S, 3] of a part, and which are whole: all, as a slice that copies nothing, or positions."""
    from csa.data.decoded_once import decoded

    assert isinstance(images, ImageFiles)
    if not len(images):
        return np.zeros((0, images.cover, images.cover, 3), np.uint8), slice(None)
    pixels, damaged = decoded(images, labels, classes, workers=workers, part=part)
    return pixels, np.delete(np.arange(len(pixels)), damaged) if damaged else slice(None)
