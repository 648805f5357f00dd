from __future__ import annotations

import pytest
import torch
from test_class_weights import CIFAR10
from tiny import copied, optimiser, random_batch, take_step
from torch.nn import functional as F

from csa.data.samplers import class_probabilities
from csa.methods.cumulative_learning import emphasis
from csa.methods.method import Clock


def clock(epoch: int = 0, epochs: int = 200) -> Clock:
    return Clock(stage=0, epoch=epoch, epochs=epochs)


def test_the_emphasis_moves_on_a_parabola():
    values = [emphasis(epoch, 200) for epoch in (0, 50, 100, 150, 199)]
    assert values == pytest.approx([1, 0.9375, 0.75, 0.4375, 0.009975])
    assert [emphasis(epoch, 10) for epoch in (0, 5, 9)] == pytest.approx([1, 0.75, 0.19])


def test_the_step_reads_the_emphasis_of_its_epoch(build):
    method = build("method=bbn")
    for epochs in (200, 10):
        alpha = method.draws(clock(epochs // 2, epochs), [4, 4, 2], torch.Generator())["alpha"]
        assert alpha.tolist() == [0.75] * 3


def test_the_published_numbers_of_parameters(build):
    for dataset, total in (("cifar10_lt", 538_778), ("cifar100_lt", 550_388)):
        method = build(f"dataset={dataset}", "method=bbn", image_shape=(3, 32, 32))
        classes = 10 if dataset == "cifar10_lt" else 100
        others = sum(p.numel() for name, p in method.named_parameters() if not name.startswith("head"))
        assert method.head.in_features == 128
        assert others + 128 * classes + classes == total


def test_the_reversed_stream(build):
    stream = build("method=bbn").streams(clock())["reversed"]
    published = "0.004024 0.006713 0.011202 0.018680 0.031191 0.051985 0.086717 0.144736 0.242389 0.402365"
    assert stream.rule == "reversed"
    assert class_probabilities(CIFAR10, -1) == pytest.approx(list(map(float, published.split())), abs=1e-6)


@pytest.mark.parametrize("backbone", ["resnet32", "lenet", "resnet10"])
def test_a_step_by_hand(build, backbone):
    method = build("method=bbn", f"backbone={backbone}", image_shape=(1, 28, 28))
    natural, rare = (random_batch(seed, image_shape=(1, 28, 28)) for seed in (0, 1))
    alpha, head, network = 0.7, method.head, method.backbone
    loss = method.train()({"train": natural, "reversed": rare}, {"alpha": torch.tensor(alpha)}, clock()).loss
    conventional = network(natural.images)
    rebalancing = network.embed(method.reversed_block(network.trunk(rare.images)))
    logits = head(torch.cat([2 * alpha * conventional, 2 * (1 - alpha) * rebalancing], 1))
    expected = alpha * F.cross_entropy(logits, natural.labels) + (1 - alpha) * F.cross_entropy(logits, rare.labels)
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("factor", [2.0, 1.0])
def test_prediction_is_the_combination_at_one_half(build, factor):
    method, images = build("method=bbn", f"method.branch_factor={factor}").eval(), random_batch(0).images
    features = [method.feature(images, block) for block in (method.backbone.last_block, method.reversed_block)]
    expected = method.head(factor / 2 * torch.cat(features, 1))
    torch.testing.assert_close(method.logits(images)["classifier"], expected)
    torch.testing.assert_close(method.combined(*features, torch.tensor(0.5)), expected)


def test_in_the_first_epoch_the_reversed_block_learns_nothing(build):
    method = build("method=bbn")
    before = copied(method)
    method.train()(
        {"train": random_batch(0), "reversed": random_batch(1)}, {"alpha": torch.tensor(1.0)}, clock()
    ).loss.backward()
    assert all(not parameter.grad.any() for parameter in method.reversed_block.parameters())
    assert method.backbone.last_block.convolution1.weight.grad.any()
    take_step(method, clock(100), optimiser(method))
    after = copied(method)
    assert all(not torch.equal(before[name], after[name]) for name, _ in method.named_parameters())
