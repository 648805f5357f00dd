from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from csa.data.augmentation import CropFlip, as_floats


def naive(image, padding, draw):
    """One image [H, W, C]: zero padding, crop at the offset, then the flip."""
    height, width, channels = image.shape
    padded = np.zeros((height + 2 * padding, width + 2 * padding, channels), np.uint8)
    padded[padding : padding + height, padding : padding + width] = image
    row, column, flip = draw
    crop = padded[row : row + height, column : column + width]
    crop = crop[:, ::-1] if flip else crop
    return crop.transpose(2, 0, 1).astype(np.float32) / 255


@settings(max_examples=30)
@given(
    padding=st.integers(0, 3),
    flip=st.booleans(),
    shape=st.tuples(st.integers(1, 7), st.integers(1, 7), st.sampled_from([1, 3])),
    seed=st.integers(0, 99),
)
def test_a_batch_equals_its_images_one_by_one(padding, flip, shape, seed):
    images = np.random.default_rng(seed).integers(0, 256, (9, *shape), dtype=np.uint8)
    augment = CropFlip(padding, flip)
    positions = torch.tensor([3, 0, 8, 3, 5, 7, 1])
    draws = augment.draw(len(positions), torch.Generator().manual_seed(seed))
    batch = augment(augment.prepare(torch.from_numpy(images)), positions, draws)
    expected = [naive(images[i], padding, draw) for i, draw in zip(positions.tolist(), draws.tolist(), strict=True)]
    assert batch.dtype == torch.float32
    assert np.array_equal(batch.numpy(), np.stack(expected))


def test_draws_cover_every_offset_evenly():
    draws = CropFlip(4, True).draw(81000, torch.Generator().manual_seed(0))
    offsets = np.bincount((draws[:, 0] * 9 + draws[:, 1]).numpy(), minlength=81)
    assert len(offsets) == 81
    assert (np.abs(offsets - 1000) < 5 * np.sqrt(1000)).all()
    assert abs(draws[:, 2].sum().item() - 40500) < 5 * np.sqrt(81000 / 4)


def test_switching_the_flip_moves_no_offset():
    with_flip, without = (CropFlip(4, flip).draw(50, torch.Generator().manual_seed(0)) for flip in (True, False))
    assert torch.equal(with_flip[:, :2], without[:, :2])
    assert without[:, 2].sum() == 0
    assert with_flip[:, 2].sum() > 0


@pytest.mark.parametrize("augment", [CropFlip(4, True), CropFlip(0, False)])
def test_batches_lie_channels_last(augment):
    padded = augment.prepare(torch.zeros(6, 32, 32, 3, dtype=torch.uint8))
    positions = torch.arange(5)
    batch = augment(padded, positions, augment.draw(5, torch.Generator().manual_seed(0)))
    assert batch.shape == (5, 3, 32, 32)
    assert batch.is_contiguous(memory_format=torch.channels_last)


def test_every_grey_level_is_exact():
    levels = as_floats(torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1)).flatten()
    assert torch.equal(levels, torch.arange(256, dtype=torch.float32) / 255)
