"""OLTR against BASELINES.md 4.16."""

from __future__ import annotations

import pytest
import torch
from tiny import copied, optimiser, random_batch, take_step

from csa.data.batch import Batch
from csa.methods.method import Clock
from csa.methods.oltr import ModulatedAttention, centroid_loss, reachability, squashed_cosine

FEATURES = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
CENTROIDS = torch.tensor([[1.0, 1.0], [0.0, 0.0], [2.0, 0.0]])
LABELS = torch.tensor([0, 1])


def test_the_cosine_classifier():
    logit = squashed_cosine(torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 2.0]]))
    assert float(logit) == pytest.approx(16 * 4 / 6, abs=1e-5)


def test_reachability_and_a_feature_on_a_centroid():
    assert reachability(FEATURES, CENTROIDS).tolist() == pytest.approx([10, 10])
    assert reachability(CENTROIDS, CENTROIDS).isfinite().all()
    assert squashed_cosine(torch.zeros(1, 2), torch.ones(1, 2)).isfinite().all()


def test_the_centroid_loss():
    assert torch.cdist(FEATURES, CENTROIDS).square().tolist() == [pytest.approx([1, 1, 1]), pytest.approx([1, 1, 5])]
    assert float(centroid_loss(FEATURES, CENTROIDS, LABELS)) == pytest.approx(0.586667, abs=1e-6)
    assert 0.01 * float(centroid_loss(FEATURES, CENTROIDS, LABELS)) == pytest.approx(0.005867, abs=1e-6)
    far = centroid_loss(FEATURES, 100 * CENTROIDS, torch.tensor([1, 1]))
    assert float(far) == pytest.approx(0.5)  # the hinge is at 0, and both features are 1 from the origin


@pytest.mark.parametrize("weight", [1.0, 0.01])
def test_centroids_have_the_released_gradient(weight):
    """Two images of class 1: plain autograd would divide by B, this by B and by 1 + 2 as well, whatever the weight."""
    feature = torch.tensor([[3.0, 0.0], [1.0, 0.0]], requires_grad=True)
    centroids = torch.zeros(2, 2).add(50).requires_grad_()  # so far off that the hinge is silent
    (weight * centroid_loss(feature, centroids, torch.tensor([1, 1]))).backward()
    assert centroids.grad[0].tolist() == [0, 0]
    assert centroids.grad[1].tolist() == pytest.approx([(47 + 49) / 3 / 2, 100 / 3 / 2])
    assert feature.grad[0].tolist() == pytest.approx([weight * -47 / 2, weight * -50 / 2])


def test_attention_starts_as_identity():
    attention = ModulatedAttention(8, 6)
    x = torch.rand(2, 8, 2, 3)
    assert torch.equal(attention(x), x)
    torch.nn.init.normal_(attention.back.weight)
    changed = attention(x) - x
    assert changed.shape == x.shape
    assert changed.abs().max() > 0


def test_a_selector_of_zero_leaves_the_direct_feature(build):
    memory = build("method=oltr").memory
    torch.nn.init.zeros_(memory.selector.weight)
    torch.nn.init.zeros_(memory.selector.bias)
    feature, centroids = torch.rand(5, 64), torch.rand(3, 64)
    expected = squashed_cosine(reachability(feature, centroids)[:, None] * feature, memory.weight)
    torch.testing.assert_close(memory(feature, centroids), expected)


class Images:
    def __init__(self, *batches: Batch) -> None:
        self.batches = batches

    def training_batches(self, batch_size: int):
        return iter(self.batches)


def test_its_two_stages(build):
    method = build("method=oltr", "protocol.epochs=90")
    assert [stage.epochs for stage in method.stages] == [30, 60]
    assert [method.stages[1].lr(epoch) for epoch in (0, 19, 20, 40)] == pytest.approx([0.1, 0.1, 0.01, 0.001])
    method.enter_stage(0)
    take_step(method, Clock(0, 0, 30), optimiser(method))
    method.enter_stage(1)
    assert torch.equal(method.memory.hallucinator.weight, method.head.weight)
    classes = [Batch(random_batch(n).images, torch.full((6,), n)) for n in range(3)]
    with torch.no_grad():
        method.eval().prepare(1, Images(*classes))
        means = torch.stack([method.feature(images).mean(0) for images, _ in classes])
    torch.testing.assert_close(method.centroids.detach(), means)
    assert [group.get("lr_factor", 1) for group in method.parameter_groups(1)] == [1, 0.1, 0.1]
    before = copied(method)
    step = take_step(method, Clock(1, 0, 60), optimiser(method, stage=1))
    after = copied(method)
    assert step.measures["loss_centroids"] > 0
    moved = {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}
    assert moved == {"backbone", "attention", "added_layer", "memory", "centroids"}
    logits = method.eval().logits(classes[0].images)["classifier"]
    assert logits.shape == (6, 3)
    assert logits.abs().max() <= 16
