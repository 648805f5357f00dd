"""mixup, Remix and CMO: rules by value, switches by epoch, steps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_class_weights import CIFAR10
from tiny import COUNTS, optimiser, random_batch, take_step
from torch.nn import functional as F

from csa.data.samplers import class_probabilities
from csa.methods.losses import class_weights, log_prior
from csa.methods.method import Clock
from csa.methods.mixing import box_draws, clipped_boxes, paste, remix_share


def clock(epoch: int = 0, epochs: int = 200, stage: int = 0) -> Clock:
    return Clock(stage=stage, epoch=epoch, epochs=epochs)


# --- mixup ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("words", "last"), [([], None), (["method.mixup_off_epochs=null"], 3)])
@pytest.mark.parametrize("epochs", [200, 10])
def test_mixup_is_on_to_the_end_unless_the_protocols_window_is_asked_for(build, words, last, epochs):
    method = build("dataset=cifar10_lt", "method=mixup", f"protocol.epochs={epochs}", *words)
    window = 0 if last is None else {200: 3, 10: 1}[epochs]
    phases = [method.phase(clock(epoch, epochs)) for epoch in range(epochs)]
    assert phases == ["mixup"] * (epochs - window) + ["plain"] * window


def test_a_mixup_step_is_soft_cross_entropy_on_one_mixed_pass(build):
    method, batch = build("method=mixup"), random_batch(0)
    share, order = torch.tensor(0.3), torch.tensor([1, 2, 3, 4, 5, 0])
    draws = {"mixup_share": share, "mixup_order": order}
    passes = []
    method.backbone.register_forward_hook(lambda _module, inputs, _output: passes.append(inputs[0]))
    loss = method.train()({"train": batch}, draws, clock()).loss
    (mixed,) = passes
    torch.testing.assert_close(mixed, 0.3 * batch.images + 0.7 * batch.images[order])
    soft = 0.3 * F.one_hot(batch.labels, 3) + 0.7 * F.one_hot(batch.labels[order], 3)
    torch.testing.assert_close(loss, F.cross_entropy(method.head(method.backbone(mixed)), soft))


# --- Remix ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("own", "partner", "share", "expected"),
    [
        (500, 5, 0.3, 0),
        (500, 5, 0.7, 0.7),
        (5, 500, 0.7, 1),
        (5, 500, 0.3, 0.3),
        (300, 100, 0.49, 0),
        (299, 100, 0.49, 0.49),
        (100, 300, 0.51, 1),
        (500, 5, 0.5, 0.5),
    ],
)
def test_remix_shares(own, partner, share, expected):
    kept = remix_share(torch.tensor(share), torch.tensor([own]), torch.tensor([partner]), kappa=3, tau=0.5)
    assert kept.tolist() == pytest.approx([expected])


@given(st.integers(1, 5000), st.integers(1, 5000), st.floats(0, 1, width=32))
def test_remix_is_symmetric_and_without_tau_or_imbalance_it_is_mixup(own, partner, share):
    ours, theirs, kept = torch.tensor([own]), torch.tensor([partner]), torch.tensor(share)
    assert remix_share(kept, ours, theirs, kappa=3, tau=0).item() == kept.item()
    assert remix_share(kept, ours, ours, kappa=3, tau=0.5).item() == kept.item()
    one, other = remix_share(kept, ours, theirs, 3, 0.5), remix_share(1 - kept, theirs, ours, 3, 0.5)
    assert float(one + other) == pytest.approx(1, abs=1e-6)


def test_a_remix_step_weighs_every_image_by_itself(build):
    """The bag of tricks multiplies the shares with an averaged loss, which is not Remix."""
    method, batch = build("method=remix", "method.kappa=2"), random_batch(0)
    share, order = torch.tensor(0.4), torch.tensor([1, 2, 3, 4, 5, 0])
    sizes = torch.tensor(COUNTS, dtype=torch.float32)
    mixed = 0.4 * batch.images + 0.6 * batch.images[order]
    draws = {"mixup_share": share, "mixup_order": order}
    loss = method.train()({"train": batch}, draws, clock()).loss
    logits, partner = method.head(method.backbone(mixed)), batch.labels[order]
    kept = remix_share(share, sizes[batch.labels], sizes[partner], 2, 0.5)
    assert len(kept.unique()) > 1
    one, other = (F.cross_entropy(logits, y, reduction="none") for y in (batch.labels, partner))
    torch.testing.assert_close(loss, (kept * one + (1 - kept) * other).mean())
    assert not torch.allclose(loss, kept.mean() * one.mean() + (1 - kept).mean() * other.mean(), atol=1e-4)


# --- CMO ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "side", "kept"), [(0.5, 22, 0.527344), (0.9, 10, 0.902344), (0.36, 24, 0.4375), (0.0, 32, 0.0)]
)
def test_boxes(share, side, kept):
    middle = torch.tensor([16])
    box = clipped_boxes(torch.tensor([share], dtype=torch.float64), middle, middle, (32, 32))
    top, bottom, left, right = box[0].tolist()
    assert (bottom - top, right - left) == (side, side)
    assert 1 - (bottom - top) * (right - left) / 1024 == pytest.approx(kept, abs=1e-6)


def test_a_box_that_is_not_central_is_clipped():
    box = clipped_boxes(torch.zeros(1, dtype=torch.float64), torch.tensor([3]), torch.tensor([31]), (32, 32))
    assert box.tolist() == [[0, 19, 15, 32]]


@given(st.integers(1, 64), st.integers(1, 64), st.floats(0, 1), st.integers(0, 99))
def test_the_label_share_is_that_of_the_clipped_box(height, width, probability, seed):
    boxes, share = box_draws(50, (height, width), probability, torch.Generator().manual_seed(seed))
    top, bottom, left, right = boxes.T
    assert (top >= 0).all()
    assert (bottom <= height).all()
    assert (left >= 0).all()
    assert (right <= width).all()
    pasted = paste(torch.zeros(1, 1, height, width), torch.ones(1, 1, height, width), boxes[0])
    assert float(pasted.mean()) == pytest.approx(1 - float(share[0]), abs=1e-6)


def test_half_of_the_steps_paste():
    _, share = box_draws(20_000, (32, 32), 0.5, torch.Generator().manual_seed(0))
    assert float((share < 1).float().mean()) == pytest.approx(0.5, abs=0.02)
    assert (box_draws(100, (32, 32), 0.0, torch.Generator().manual_seed(0))[1] == 1).all()


@pytest.mark.parametrize(("epochs", "first", "last"), [(200, 4, 196), (10, 0, 8), (8, 0, 6)])
def test_pasting_has_a_window(build, epochs, first, last):
    method = build("dataset=cifar10_lt", "method=cmo", f"protocol.epochs={epochs}")
    on = [epoch for epoch in range(epochs) if method.pastes(clock(epoch, epochs))]
    assert on == list(range(first, last + 1))
    names = [list(method.streams(clock(epoch, epochs))) for epoch in range(epochs)]
    assert [names[epoch] == ["train", "foreground"] for epoch in range(epochs)] == [e in on for e in range(epochs)]


@pytest.mark.parametrize(("power", "expected"), [(1.0, [0.1] * 10), (0.0, np.array(CIFAR10) / sum(CIFAR10))])
def test_the_foreground_stream(build, power, expected):
    method = build("dataset=cifar10_lt", "method=cmo", f"method.foreground_power={power}")
    stream = method.streams(clock(10))["foreground"]
    assert class_probabilities(CIFAR10, stream.q) == pytest.approx(expected)


LOSSES = {
    "ce": F.cross_entropy,
    "ce_drw": lambda logits, y: F.cross_entropy(logits, y, class_weights("effective_number", COUNTS, 0.9999)),
    "balanced_softmax": lambda logits, y: F.cross_entropy(logits + log_prior(COUNTS), y),
    "ldam_drw": None,
}


@pytest.mark.parametrize("loss", LOSSES)
def test_a_pasting_step(build, loss):
    method = build("dataset=cifar10_lt", "method=cmo", f"method.loss={loss}")
    back, front, box = random_batch(0), random_batch(1), torch.tensor([0, 4, 2, 8])
    draws = {"box": box, "share": torch.tensor(1 - 24 / 64)}
    now = clock(170)
    step = method.train()({"train": back, "foreground": front}, draws, now)
    images = back.images.clone()
    images[:, :, 0:4, 2:8] = front.images[:, :, 0:4, 2:8]
    outputs = method.head(method.backbone(images))
    if loss == "ldam_drw":
        expected = method.criterion(outputs, [(back.labels, 0.625), (front.labels, 0.375)], now)
        assert method.phase(now) == "weighted+paste"
    else:
        expected = 0.625 * LOSSES[loss](outputs, back.labels) + 0.375 * LOSSES[loss](outputs, front.labels)
    torch.testing.assert_close(step.loss, expected)


@pytest.mark.parametrize("name", ["cmo", "mixup", "remix"])
def test_steps_in_and_out_of_the_window(build, name):
    method = build("dataset=cifar10_lt", f"method={name}")
    for epoch in (0, 10, 199):
        assert take_step(method, clock(epoch), optimiser(method)).loss.isfinite()
