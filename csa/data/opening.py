"""Which loader a split is read by."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from csa.data.decoding import refuse_none
from csa.data.image_files import ImageFiles
from csa.data.loader import ResidentLoader
from csa.data.sharding import ALONE, Share
from csa.data.split import HOLDOUT, TEST, TRAIN
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
    if not split.train_images.decoded_once:
        return StreamingLoader(split, protocol, device, seed, workers=workers, share=share)
    decoded, damaged = decoded_split(split, workers)
    return ResidentLoader(decoded, protocol, device, seed, share=share, image_shape=split.image_shape, damaged=damaged)


def decoded_split(split: Split, workers: int) -> tuple[Split, dict[str, str]]:
    """The same split with arrays for images, and the damaged files, with the reason.

    Damaged test and validation images are left out.
    """
    damaged: dict[str, str] = {}
    train, _ = _decoded(split.train_images, split.train_labels, split.classes, workers, TRAIN, damaged)
    test, test_whole = _decoded(split.test_images, split.test_labels, split.classes, workers, TEST, damaged)
    held, held_whole = _decoded(split.holdout_images, split.holdout_labels, split.classes, workers, HOLDOUT, damaged)
    whole = replace(
        split, train_images=train,
        test_images=test[test_whole], test_labels=split.test_labels[test_whole],
        holdout_images=held[held_whole], holdout_labels=split.holdout_labels[held_whole],
    )  # fmt: skip
    return whole, damaged


def _decoded(
    images: Images, labels: np.ndarray, classes: Sequence[str], workers: int, part: str, damaged: dict[str, str]
) -> tuple[np.ndarray, slice | np.ndarray]:
    """Squares [N, S, S, 3] of a part, and which are whole: all, as a slice that copies nothing, or positions."""
    from csa.data.decoded_once import decoded

    assert isinstance(images, ImageFiles)
    if not len(images):
        return np.zeros(images.decoded_shape, np.uint8), slice(None)
    pixels, unread = decoded(images, labels, classes, workers=workers, part=part)
    refuse_none(part, len(images) - len(unread), len(images))
    damaged |= {str(images.path(place)): why for place, why in unread.items()}
    return pixels, np.delete(np.arange(len(pixels)), list(unread)) if unread else slice(None)
