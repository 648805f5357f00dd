from __future__ import annotations

import numpy as np
import pytest
import torch
from composed import config_of
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from test_class_weights import CIFAR10, CIFAR100
from tiny import optimiser, small_split, take_step

from csa.data.loader import ResidentLoader
from csa.methods.cam_bs import (
    MIRROR,
    ROTATE,
    TRANSLATE,
    Moves,
    bounding_boxes,
    draw_moves,
    draw_sources,
    foreground,
    matrices,
    pack,
    transferred,
    unpack,
    wanted,
    warp,
)
from csa.methods.method import Clock
from csa.methods.stages import learning_rate

CONFIG = config_of("method=cam_bs").method


def moves(kind: int, angle: float = 0.5, scale: float = 0.5, down: float = 0.5, right: float = 0.5) -> Moves:
    return Moves(torch.tensor([kind]), *(torch.tensor([x], dtype=torch.float64) for x in (angle, scale, down, right)))


# --- how many -------------------------------------------------------------------------------


@pytest.mark.parametrize(("counts", "generated", "each"), [(CIFAR10, 38_094, 5050), (CIFAR100, 39_653, 505)])
def test_every_class_gets_the_same_total(counts, generated, each):
    numbers = wanted(counts, None)
    assert sum(numbers) == generated
    assert {count + number for count, number in zip(counts, numbers, strict=True)} == {each}


def test_the_rule_of_imagenet():
    assert wanted((1280, 100, 99, 5), 100) == [0, 0, 100, 100]


def test_a_class_without_images_gets_none():
    assert wanted((8, 0, 2), None) == [2, 0, 8]


# --- foreground -----------------------------------------------------------------------------


def test_foreground_is_where_the_map_is_high():
    class_map = torch.tensor([[[-3.0, -2.0], [-2.9, 5.0]]])
    assert foreground(class_map, (2, 2), 0.75).tolist() == [[[False, False], [False, True]]]


def test_a_constant_map_is_all_foreground():
    assert foreground(torch.full((2, 4, 4), -1.7), (8, 8), 0.75).all()


@settings(max_examples=60)
@given(arrays(np.float32, (1, 4, 4), elements=st.floats(-1e3, 1e3, width=32)), st.floats(0, 1))
def test_there_is_always_a_foreground(class_map, threshold):
    assert foreground(torch.from_numpy(class_map), (9, 7), threshold).any()


@given(arrays(np.bool_, st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9))))
def test_masks_survive_packing(masks):
    masks = torch.from_numpy(masks)
    packed = pack(masks)
    assert packed.shape == (len(masks), -(-masks[0].numel() // 8))
    assert torch.equal(unpack(packed, (masks.shape[1], masks.shape[2])), masks)


def test_the_true_extent_of_a_box():
    masks = torch.zeros(1, 6, 8, dtype=torch.bool)
    masks[0, 1, 2] = masks[0, 4, 6] = True
    assert [int(edge) for edge in bounding_boxes(masks)] == [1, 4, 2, 6]


# --- geometry -------------------------------------------------------------------------------


def pattern(height: int = 7, width: int = 9) -> torch.Tensor:
    return torch.randint(1, 256, (1, 1, height, width), generator=torch.Generator().manual_seed(0)).float()


def test_a_mirror_image():
    masks = torch.ones(1, 7, 9, dtype=torch.bool)
    torch.testing.assert_close(
        warp(pattern(), matrices(moves(MIRROR), masks, CONFIG)), pattern().flip(3), atol=1e-2, rtol=0
    )


@given(st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True))
def test_a_shift_is_whole_and_keeps_the_box_inside(down, right):
    masks = torch.zeros(1, 7, 9, dtype=torch.bool)
    masks[0, 2:4, 3:8] = True
    moved = warp(masks[:, None].float(), matrices(moves(TRANSLATE, down=down, right=right), masks, CONFIG))
    assert float(moved.sum()) == pytest.approx(10, abs=1e-3)
    (row, column) = divmod(int(moved[0, 0].flatten().round().argmax()), 9)
    assert (row, column) == (int(down * 6), int(right * 5))
    torch.testing.assert_close(moved[0, 0, row : row + 2, column : column + 5], torch.ones(2, 5), atol=1e-4, rtol=0)


def test_rotation_by_nothing_and_about_the_middle_of_the_box():
    masks = torch.zeros(1, 9, 9, dtype=torch.bool)
    masks[0, 2:7, 1:4] = True  # middle: row 4, column 2
    still = matrices(moves(ROTATE), masks, CONFIG)  # 0 degrees, scale 1
    torch.testing.assert_close(still[0], torch.eye(3, dtype=torch.float64)[:2])
    config = config_of("method=cam_bs", "method.max_angle=90").method
    quarter = matrices(moves(ROTATE, angle=1.0), masks, config)[0]
    middle, below = torch.tensor([2.0, 4, 1]).double(), torch.tensor([2.0, 6, 1]).double()
    torch.testing.assert_close(quarter @ middle, torch.tensor([2.0, 4]).double())
    assert float((quarter @ below)[1]) == pytest.approx(4)
    assert abs(float((quarter @ below)[0]) - 2) == pytest.approx(2)
    larger = matrices(moves(ROTATE, scale=1.0), masks, CONFIG)[0] @ below  # scale 1.2: what is shown lies nearer
    assert float(larger[1]) == pytest.approx(4 + 2 / 1.2)


def test_the_composite_by_hand():
    image = torch.tensor([10, 20, 30, 40], dtype=torch.uint8).view(1, 1, 4, 1)
    mask = torch.tensor([[[True, False, False, False]]])
    mirrored = transferred(image, mask, matrices(moves(MIRROR), mask, CONFIG))
    assert mirrored.flatten().tolist() == [40, 20, 30, 10]  # where foreground was, and where it is now
    shifted = transferred(image, mask, matrices(moves(TRANSLATE, right=0.5), mask, CONFIG))
    assert shifted.flatten().tolist() == [10, 20, 10, 40]  # what came from outside is black: the original shows


def test_moves_are_equally_likely_and_within_their_ranges():
    drawn = draw_moves(30_000, torch.Generator().manual_seed(0))
    assert (drawn.kind.bincount() / 30_000).tolist() == pytest.approx([1 / 3] * 3, abs=0.01)
    masks = torch.ones(30_000, 3, 3, dtype=torch.bool)
    rotations = matrices(drawn, masks, CONFIG)[drawn.kind == ROTATE]
    cosine, sine = rotations[:, 0, 0], rotations[:, 1, 0]
    angles, scales = torch.rad2deg(torch.atan2(sine, cosine)), 1 / torch.hypot(cosine, sine)
    assert (float(angles.min()), float(angles.max())) == pytest.approx((-45, 45), abs=0.1)
    assert (float(scales.min()), float(scales.max())) == pytest.approx((0.8, 1.2), abs=0.001)


# --- the method -----------------------------------------------------------------------------


def test_sources_are_of_their_class():
    labels, counts = torch.tensor([2, 0, 1, 0, 2, 0]), (3, 1, 2)
    sources = draw_sources(labels, counts, [1, 50, 60], torch.Generator().manual_seed(0))
    assert labels[sources].tolist() == [0] + [1] * 50 + [2] * 60
    assert set(sources[51:].tolist()) == {0, 4}


@pytest.fixture
def prepared(build):
    words = ("method=cam_bs", "dataset=cifar10_lt", "protocol.batch_size=4", "protocol.epochs=10")
    method = build(*words)
    loader = ResidentLoader(small_split(), config_of(*words).protocol, "cpu", seed=0)
    method.enter_stage(0)
    clock = Clock(0, 0, 8)
    take_step(method, clock, optimiser(method))
    method.enter_stage(1)
    with torch.no_grad():
        method.eval().prepare(1, loader)
    return method, loader


def test_what_stage_two_trains_on(prepared):
    method, loader = prepared
    images, labels = method.added_images(1, loader)
    assert images.dtype == torch.uint8
    assert labels.bincount().tolist() == [2, 6, 8]
    more = loader.with_images(images, labels)
    assert more.counts == (10, 10, 10)
    (stream,) = method.streams(Clock(1, 0, 2)).values()
    epoch = more.epoch({"train": stream}, 1, 0)
    assert epoch.sizes == [4, 4, 4, 2]  # as many draws as there are originals
    assert (stream.rule, stream.q) == ("power", 0)
    again = method.added_images(1, loader)
    assert torch.equal(images, again[0])
    assert method.added_images(0, loader) is None
    assert [len(batch.labels) for batch in loader.training_batches(10)] == [10, 4]  # the loader itself is as before


def test_generated_images_do_not_depend_on_what_stage_two_has_learned(prepared):
    method, loader = prepared
    before, _ = method.added_images(1, loader)
    take_step(method, Clock(1, 0, 2), optimiser(method, stage=1))
    assert torch.equal(method.added_images(1, loader)[0], before)
    masks = unpack(method.masks, (8, 8))
    assert masks.any((1, 2)).all()
    assert not masks.all()


@pytest.mark.parametrize(("epochs", "lengths"), [(200, (160, 40)), (10, (8, 2)), (8, (6, 2))])
def test_stage_two_goes_on_where_the_schedule_is(build, epochs, lengths):
    method = build("dataset=cifar10_lt", "protocol=published", "method=cam_bs", f"protocol.epochs={epochs}")
    first, second = method.stages
    assert (first.epochs, second.epochs) == lengths
    assert dict(first.shared)["epochs"] == lengths[0]
    rates = [first.lr(epoch) for epoch in range(first.epochs)] + [second.lr(epoch) for epoch in range(second.epochs)]
    whole = learning_rate(config_of("dataset=cifar10_lt", "protocol=cifar_bot", f"protocol.epochs={epochs}").protocol)
    assert rates == [whole(epoch) for epoch in range(epochs)]
    if epochs == 200:
        assert [second.lr(epoch) for epoch in (0, 19, 20)] == pytest.approx([1e-3, 1e-3, 1e-5])
