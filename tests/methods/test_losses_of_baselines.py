"""Values of BASELINES section 4, and every loss's gradient against finite differences."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch.nn import functional as F

from csa.methods.losses import (
    Criterion,
    WithConstant,
    class_weighted,
    cross_entropy,
    distorted_softmax_focal,
    ldam_margins,
    log_prior,
    logit_adjusted,
    margin_loss,
    plain,
    sigmoid_focal,
    softmax_focal,
)
from csa.methods.method import Clock

CLOCK = Clock(0, 0, 10)


def labels(*values: int) -> torch.Tensor:
    return torch.tensor(values)


# --- focal ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("gamma", "expected"), [(0, 0.223144), (0.5, 0.099793), (1, 0.044629), (2, 0.0089257)])
def test_softmax_focal(gamma, expected):
    logits = torch.tensor([[0.8, 0.1, 0.1]]).log()
    assert softmax_focal(logits, labels(0), gamma).tolist() == pytest.approx([expected], abs=1e-6)


def test_softmax_focal_with_class_weights():
    logits, weights = torch.tensor([[0.8, 0.1, 0.1]]).log(), torch.tensor([2.0, 1.0, 1.0])
    criterion = Criterion(partial(softmax_focal, gamma=1.0), weights=weights)
    assert float(criterion(logits, [(labels(0), 1.0)], CLOCK)) == pytest.approx(0.089257, abs=1e-6)
    assert float(distorted_softmax_focal(logits, labels(0), weights, 1.0)) == pytest.approx(0.160663, abs=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
def test_softmax_focal_of_a_sure_answer_has_a_finite_slope(gamma):
    logits = torch.tensor([[200.0, 0.0]], requires_grad=True)
    softmax_focal(logits, labels(0), gamma).sum().backward()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize(("gamma", "expected"), [(0, 1.414267), (1, 0.705703), (2, 0.401873)])
def test_sigmoid_focal(gamma, expected):
    assert float(sigmoid_focal(torch.tensor([[2.0, -1.0, 0.5]]), labels(0), gamma)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("classes", "bias", "loss"), [(10, -2.197225, 3.250830), (100, -4.595120, 5.600153)])
def test_sigmoid_focal_at_the_prior_bias(classes, bias, loss):
    assert -math.log(classes - 1) == pytest.approx(bias, abs=1e-6)
    logits = torch.full((1, classes), -math.log(classes - 1))
    assert float(sigmoid_focal(logits, labels(3), 0)) == pytest.approx(loss, abs=1e-5)


def test_sigmoid_focal_is_a_sum_of_binary_losses_and_stands_large_logits():
    torch.manual_seed(0)
    logits, y = torch.randn(5, 4), labels(0, 3, 1, 2, 2)
    binary = F.binary_cross_entropy_with_logits(logits, F.one_hot(y, 4).float(), reduction="none").sum(1)
    torch.testing.assert_close(sigmoid_focal(logits, y, 0), binary)
    assert sigmoid_focal(1e4 * logits, y, 2.0).isfinite().all()


# --- LDAM -----------------------------------------------------------------------------------


def test_margin_loss():
    cosines, margins = torch.tensor([[0.5, 0.3, 0.1]]), ldam_margins((10000, 625, 16), 0.5)
    losses = [float(margin_loss(cosines, labels(y), margins, 30)) for y in range(3)]
    assert losses == pytest.approx([0.048705, 12.000012, 27.002476], abs=2e-6)
    without = margin_loss(cosines, labels(1), ldam_margins((10000, 625, 16), 0), 1)
    torch.testing.assert_close(without, F.cross_entropy(cosines, labels(1), reduction="none"))


# --- logit adjustment -----------------------------------------------------------------------


def test_logit_adjustment():
    logits, prior = torch.tensor([[1.0, 2.0, 3.0]]), log_prior((90, 9, 1))
    losses = [float(logit_adjusted(logits, labels(y), prior, 1.0)) for y in range(3)]
    assert losses == pytest.approx([0.303011, 1.605596, 2.802820], abs=1e-6)
    raw_counts = torch.tensor([90.0, 9.0, 1.0]).log()
    torch.testing.assert_close(
        logit_adjusted(logits, labels(2), raw_counts, 1.0), logit_adjusted(logits, labels(2), prior, 1.0)
    )
    plainly = [float(logit_adjusted(logits, labels(y), prior, 0.0)) for y in range(3)]
    assert plainly == pytest.approx([2.407606, 1.407606, 0.407606], abs=1e-6)


# --- class weights and reductions -----------------------------------------------------------


def given_losses(logits: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    return logits[:, 0]


def test_reductions():
    losses, weights = torch.tensor([[1.0], [2.0]]), torch.tensor([1.5, 1.5])
    targets = [(labels(0, 1), 1.0)]
    assert float(class_weighted(given_losses, losses, targets, weights, "weighted_mean")) == pytest.approx(1.5)
    assert float(class_weighted(given_losses, losses, targets, weights, "mean")) == pytest.approx(2.25)
    assert float(class_weighted(given_losses, losses, targets, None, "weighted_mean")) == pytest.approx(1.5)


def test_the_weighted_mean_is_torchs_and_each_term_is_divided_by_its_own_labels():
    torch.manual_seed(0)
    logits, weights = torch.randn(6, 3), torch.tensor([0.1, 0.5, 2.4])
    own, other = labels(0, 0, 1, 2, 0, 1), labels(2, 2, 2, 0, 1, 1)
    mixed = class_weighted(plain, logits, [(own, torch.tensor(0.3)), (other, 0.7)], weights, "weighted_mean")
    expected = 0.3 * F.cross_entropy(logits, own, weights) + 0.7 * F.cross_entropy(logits, other, weights)
    torch.testing.assert_close(mixed, expected)


def test_weights_begin_at_their_epoch():
    logits, targets = torch.randn(4, 3), [(labels(0, 1, 2, 2), 1.0)]
    criterion = Criterion(weights=torch.tensor([0.2, 0.3, 2.5]), start_epoch=3, reduction="weighted_mean")
    unweighted = F.cross_entropy(logits, targets[0][0])
    for epoch, phase in ((0, "plain"), (2, "plain"), (3, "weighted")):
        clock = Clock(0, epoch, 10)
        assert criterion.phase(clock) == phase
        assert torch.allclose(criterion(logits, targets, clock), unweighted) == (phase == "plain")
    assert criterion.state_dict() == {}


def test_gradients_of_several_terms_meet_in_float32():
    """Rounded to bf16 term by term, the sum would differ in its last bits."""
    torch.manual_seed(0)
    rounded = torch.randn(64, 10).bfloat16()
    own, other = torch.randint(10, (2, 64))
    for loss in (
        lambda z: cross_entropy(z, [(own, 0.3), (other, 0.7)]),
        lambda z: Criterion()(z, [(own, 0.3), (other, 0.7)], CLOCK),
    ):
        half, full = rounded.clone().requires_grad_(), rounded.float().requires_grad_()
        loss(half).backward()
        loss(full).backward()
        assert torch.equal(half.grad, full.grad.bfloat16())


# --- gradients ------------------------------------------------------------------------------

WEIGHTS = torch.tensor([0.3, 0.7, 2.0], dtype=torch.float64)
LOSSES = {
    "cross-entropy": plain,
    "softmax focal 0.5": partial(softmax_focal, gamma=0.5),
    "softmax focal 2": partial(softmax_focal, gamma=2.0),
    "distorted focal": WithConstant(distorted_softmax_focal, WEIGHTS, 1.0),
    "sigmoid focal 0": partial(sigmoid_focal, gamma=0.0),
    "sigmoid focal 1.5": partial(sigmoid_focal, gamma=1.5),
    "ldam": WithConstant(margin_loss, WEIGHTS / 4, 30.0),
    "logit adjustment": WithConstant(logit_adjusted, WEIGHTS.log(), 1.5),
}


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_those_of_finite_differences(name):
    torch.manual_seed(0)
    logits = torch.rand(5, 3, dtype=torch.float64, requires_grad=True)
    own, other, share = labels(0, 1, 2, 2, 0), labels(1, 1, 0, 2, 2), torch.rand(5, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda z: LOSSES[name](z, own), logits)
    for reduction in ("mean", "weighted_mean"):
        criterion = Criterion(LOSSES[name], weights=WEIGHTS, reduction=reduction)
        assert torch.autograd.gradcheck(lambda z, c=criterion: c(z, [(own, share), (other, 1 - share)], CLOCK), logits)
    assert LOSSES[name](logits.bfloat16(), own).dtype in (torch.float32, torch.float64)
