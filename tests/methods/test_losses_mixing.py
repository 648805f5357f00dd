from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from csa.methods.losses import cross_entropy
from csa.methods.mixing import blend_context, mixup, mixup_draws

LOGITS = torch.tensor([[1.0, 2.0, 3.0]])


def test_cross_entropy_values():
    losses = [float(cross_entropy(LOGITS, [(torch.tensor([y]), 1.0)])) for y in range(3)]
    assert losses == pytest.approx([2.407606, 1.407606, 0.407606], abs=1e-6)


def test_weights_are_numbers_or_one_an_image():
    logits, labels = LOGITS.repeat(2, 1), torch.tensor([0, 2])
    weights = torch.tensor([1.5, 0.5])
    losses = cross_entropy(logits, [(labels, weights), (labels.flip(0), 0.25)], reduction="none")
    expected = [1.5 * 2.407606 + 0.25 * 0.407606, 0.5 * 0.407606 + 0.25 * 2.407606]
    assert losses.tolist() == pytest.approx(expected, abs=1e-5)
    mean = cross_entropy(logits, [(labels, weights), (labels.flip(0), 0.25)])
    assert float(mean) == pytest.approx(sum(expected) / 2, abs=1e-5)


def test_losses_are_float32():
    assert cross_entropy(LOGITS.bfloat16(), [(torch.tensor([0]), 1.0)]).dtype == torch.float32


def test_mixup_is_cross_entropy_on_soft_labels():
    torch.manual_seed(0)
    images, labels = torch.rand(4, 1, 2, 2), torch.tensor([0, 1, 2, 1])
    share, order = torch.tensor(0.3), torch.tensor([2, 0, 3, 1])
    mixed, targets = mixup(images, labels, share, order)
    torch.testing.assert_close(mixed[0], 0.3 * images[0] + 0.7 * images[2])
    soft = 0.3 * F.one_hot(labels, 3) + 0.7 * F.one_hot(labels[order], 3)
    logits = torch.randn(4, 3)
    torch.testing.assert_close(cross_entropy(logits, targets), F.cross_entropy(logits, soft))


def test_mixup_with_the_whole_share_is_plain():
    images, labels = torch.rand(3, 1, 2, 2), torch.tensor([0, 1, 2])
    mixed, targets = mixup(images, labels, torch.tensor(1.0), torch.tensor([1, 2, 0]))
    logits = torch.randn(3, 3)
    assert torch.equal(mixed, images)
    torch.testing.assert_close(cross_entropy(logits, targets), F.cross_entropy(logits, labels))


def test_mixup_draws_permute_each_step_within_its_size():
    share, order = mixup_draws(1.0, [5, 5, 3], torch.Generator().manual_seed(0))
    assert sorted(order[0].tolist()) == sorted(order[1].tolist()) == [0, 1, 2, 3, 4]
    assert sorted(order[2, :3].tolist()) == [0, 1, 2]
    assert ((share >= 0) & (share <= 1)).all()
    again = mixup_draws(1.0, [5, 5, 3], torch.Generator().manual_seed(0))
    assert torch.equal(share, again[0])
    assert torch.equal(order, again[1])


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_mixup_shares_have_the_moments_of_beta(alpha: float):
    share, _ = mixup_draws(alpha, [1] * 20_000, torch.Generator().manual_seed(0))
    assert float(share.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(share.var()) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.03)


def test_blend_by_hand():
    images, contexts = torch.full((1, 1, 1, 3), 0.2), torch.full((1, 1, 1, 3), 1.0)
    masks = torch.tensor([0.0, 0.5, 1.0]).view(1, 1, 1, 3)
    blended = blend_context(images, contexts, masks, torch.tensor(0.5))
    assert blended.flatten().tolist() == pytest.approx([0.2, 0.25 * 1.0 + 0.75 * 0.2, 0.5 * 1.0 + 0.5 * 0.2])
