"""csa with other losses of its uniform head, weight_balancing, ride, sade, glmc, bcl."""

from __future__ import annotations

import math
from itertools import count

import pytest
import torch
from composed import config_of
from tiny import COUNTS, copied, optimiser, random_batch, small_split, take_step
from torch.nn import functional as F

from csa.config.faults import UserError
from csa.data.batch import Batch
from csa.data.loader import ResidentLoader
from csa.data.samplers import View
from csa.methods.contrastive import balanced_contrast, parametric_contrast
from csa.methods.decoupled import balanced_binary, within
from csa.methods.experts import aggregation_weights, distance_from_mean, reversed_prior, stability
from csa.methods.losses import class_weights, log_prior, normalized_weights
from csa.methods.method import Clock
from csa.methods.mixing import clipped_boxes
from csa.request import preflight


def clock(epoch: int = 0, epochs: int = 200, stage: int = 0) -> Clock:
    return Clock(stage=stage, epoch=epoch, epochs=epochs)


def batches_of(method, clock: Clock, size: int = 6) -> dict[str, Batch]:
    """Views have the labels of their stream."""
    made = {}
    for number, (name, sampler) in enumerate(method.streams(clock).items()):
        batch = random_batch(10 * number, size)
        made[name] = Batch(batch.images, made[sampler.of].labels) if isinstance(sampler, View) else batch
    return made


def rows_of(method, clock: Clock, size: int = 6) -> dict[str, torch.Tensor]:
    return {name: row[0] for name, row in method.draws(clock, [size], torch.Generator().manual_seed(0)).items()}


# --- csa ------------------------------------------------------------------------------------


def test_csa_s_uniform_head_may_be_logit_adjusted(build):
    plain, adjusted = (build("method=csa", f"method.loss={loss}", "delta=0") for loss in ("ce", "logit_adjusted"))
    assert copied(plain).keys() == copied(adjusted).keys()
    batches = batches_of(plain, clock(20))
    rows = rows_of(plain, clock(20))
    measured = []
    for method in (plain, adjusted):
        method.train()
        method.before_forward(batches, clock(20))
        measured.append(method(batches, rows, clock(20)).measures)
    logits = plain.train().uniform_head(plain.backbone(batches["uniform"].images))
    expected = F.cross_entropy(logits + log_prior(COUNTS), batches["uniform"].labels)
    assert float(measured[1]["loss_uniform"]) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert float(measured[0]["loss_uniform"]) != pytest.approx(float(expected.detach()), rel=1e-3)
    torch.testing.assert_close(measured[0]["loss_balanced"], measured[1]["loss_balanced"])


def test_csa_with_balanced_contrast_sees_three_views_in_one_pass(build):
    method = build("method=csa", "method.loss=bcl", "method.bank=false")
    streams = method.streams(clock(20))
    assert list(streams) == ["uniform", "second", "third", "balanced"]
    assert [(streams[name].of, streams[name].augment) for name in ("second", "third")] == [("uniform", "sim")] * 2
    batches = batches_of(method, clock(20))
    method.train()
    with torch.no_grad():
        features = method.backbone(torch.cat([batches[name].images for name in ("uniform", "second", "third")]))
        labels = batches["uniform"].labels
        classified = F.cross_entropy(method.uniform_head(features[:6]) + log_prior(COUNTS), labels)
        contrasted = method.contrast(features[6:], method.uniform_head.weight, labels)
    step = method(batches, {}, clock(20))
    assert float(step.measures["loss_uniform"]) == pytest.approx(float((classified + contrasted).detach()), rel=1e-4)
    step.loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in method.contrast.parameters() if p.dim() > 1)
    assert list(method.streams(clock(0))) == ["uniform", "second", "third"]
    assert method.contrast.temperature == 0.1
    warm = build("method=csa", "method.loss=bcl", "method.contrast_temperature=0.5")
    assert warm.contrast.temperature == 0.5


@pytest.mark.parametrize("word", ["method.mixup_alpha=1", "method.mask_pass=train"])
def test_csa_s_contrast_goes_with_neither_mixup_nor_one_pass(word):
    with pytest.raises(UserError, match=r"method.loss=bcl: does not go with"):
        preflight(("method.loss=bcl", word))
    preflight(("method.loss=logit_adjusted", "method.mixup_alpha=1"))


# --- bcl ------------------------------------------------------------------------------------


def test_balanced_contrast_of_two_views_by_hand():
    """Anchor (1, 0): (1 + e) / 2 of its class, e^0 of the other; positives at 0 and 1. Anchor (0, 1): 1, and e."""
    features, prototypes = torch.eye(2), torch.eye(2)
    first = math.log((1 + math.e) / 2 + 1) - 0.5
    second = math.log(1 + math.e)
    found = balanced_contrast(features, prototypes, torch.tensor([0]), temperature=1.0)
    assert float(found) == pytest.approx((first + second) / 2)


def test_balanced_contrast_is_the_paper_s_sum_anchor_by_anchor():
    generator = torch.Generator().manual_seed(1)
    labels = torch.tensor([0, 0, 1, 2, 1])
    features = F.normalize(torch.randn(10, 4, generator=generator)).requires_grad_()
    prototypes = F.normalize(torch.randn(4, 4, generator=generator)).requires_grad_()  # the fourth class is absent
    everything, classes = torch.cat([features, prototypes]), [*labels.tolist(), *labels.tolist(), 0, 1, 2, 3]
    total = 0.0
    for anchor in range(10):
        likeness = (features[anchor] @ everything.T / 0.1).exp()
        others = [j for j in range(14) if j != anchor]
        groups = {k: [j for j in others if classes[j] == k] for k in range(4)}
        below = sum(likeness[members].mean() for members in groups.values())
        total = total - (likeness[groups[classes[anchor]]] / below).log().mean()
    found = balanced_contrast(features, prototypes, labels, 0.1)
    torch.testing.assert_close(found, total / 10)
    ours = torch.autograd.grad(found, [features, prototypes], retain_graph=True)
    torch.testing.assert_close(ours, torch.autograd.grad(total / 10, [features, prototypes]))
    assert ours[1][3].abs().sum() > 0  # so that an absent class learns too


def test_bcl_weighs_its_two_losses(build):
    method = build("method=bcl", "method.classifier_weight=2", "method.contrast_weight=0.6")
    batches = batches_of(method, clock())
    step = method.train()(batches, {}, clock())
    expected = 2 * step.measures["loss_classifier"] + 0.6 * step.measures["loss_contrast"]
    torch.testing.assert_close(step.loss.detach(), expected)
    before = copied(method)
    take_step(method, clock(), optimiser(method, weight_decay=0))
    assert all(not torch.equal(before[name], value) for name, value in method.named_parameters() if value.dim() > 1)


# --- weight balancing -----------------------------------------------------------------------


def test_max_norm_by_hand():
    weight = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    torch.testing.assert_close(within(weight, torch.tensor(2.5)), torch.tensor([[1.5, 2.0], [0.3, 0.4], [0.0, 0.0]]))


def test_the_released_class_balanced_loss():
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels, weights = torch.tensor([0, 2, 1, 1, 0]), torch.tensor([0.5, 1.0, 1.5])
    of_all = weights[labels][:, None].expand(-1, 3)
    expected = F.binary_cross_entropy(logits.softmax(1), F.one_hot(labels, 3).float(), of_all)
    found = balanced_binary(logits, labels, weights)
    torch.testing.assert_close(found, expected)
    (ours,), (theirs,) = torch.autograd.grad(found, logits), torch.autograd.grad(expected, logits)
    torch.testing.assert_close(ours, theirs)


def test_weight_balancing_re_trains_its_classifier_inside_the_ball(build):
    method = build("method=weight_balancing", "method.max_norm=0.25", "method.weight_decay=0")
    assert dict(method.stages[0].shared) == dict(build("method=ce").stages[0].shared)
    take_step(method, clock(), optimiser(method))
    plain = method.eval().logits(random_batch(0).images)["classifier"]
    method.enter_stage(0)
    method.enter_stage(1)
    before = copied(method)
    with torch.no_grad():
        method.prepare(1, None)
    norms = before["head.weight"].norm(dim=1).detach()
    assert float(method.radius) == pytest.approx(float(norms.min() + 0.25 * (norms.max() - norms.min())))
    assert method.parameter_groups(1) == [{"params": [method.head.weight, method.head.bias], "weight_decay": 0.0}]
    assert not torch.equal(method.eval().logits(random_batch(0).images)["classifier"], plain)
    take_step(method, clock(stage=1), optimiser(method, 1, lr=30.0))
    assert method.head.weight.norm(dim=1).max() > method.radius  # the step leaves the ball
    assert method.projected().norm(dim=1).max() <= method.radius * 1.0001
    batch = random_batch(4)
    expected = method.eval().logits(batch.images)["classifier"]
    method({"train": batch}, {}, clock(stage=1))
    assert method.head.weight.norm(dim=1).max() <= method.radius * 1.0001  # the next one starts inside
    torch.testing.assert_close(method.head(method.backbone(batch.images)), expected)
    moved = {name for name, value in method.state_dict().items() if not torch.equal(value, before[name])}
    assert {name for name in moved if "backbone" in name} == {n for n in before if "running" in n or "num_b" in n}


# --- experts --------------------------------------------------------------------------------


@pytest.mark.parametrize("backbone", ["resnet32", "lenet"])
def test_experts_share_the_early_stages_and_have_late_ones_of_their_own(build, backbone):
    method = build("method=ride", f"backbone={backbone}", image_shape=(1, 12, 12))
    images = random_batch(0, image_shape=(1, 12, 12)).images
    logits = method.eval().logits(images)
    assert list(logits) == ["mean", "expert1", "expert2", "expert3"]
    torch.testing.assert_close(logits["mean"], torch.stack(list(logits.values())[1:]).mean(0))
    feature = F.normalize(method.backbone(images))
    expected = 30 * feature @ F.normalize(method.classifiers[0].weight).T
    torch.testing.assert_close(logits["expert1"], expected)
    own = [sum(p.numel() for p in stages.parameters()) for stages in (method.backbone.late(2), *method.others)]
    assert len(set(own)) == 1
    assert own[0] < sum(p.numel() for p in method.backbone.parameters())
    method.train()
    step = method({"train": random_batch(0, image_shape=(1, 12, 12))}, {}, clock())
    step.loss.backward()
    assert all(p.grad is not None for p in method.parameters())


def test_own_stages_of_resnet32(build):
    one, two = (build("method=sade", f"method.own_stages={stages}") for stages in (1, 2))
    assert [len(method.others[0]) for method in (one, two)] == [1, 2]


def test_distance_from_the_mean_by_hand():
    each = [torch.tensor([[0.0, math.log(3)]]), torch.tensor([[math.log(3), 0.0]])]
    # The mean is (1/2, 1/2), the first expert (1/4, 3/4): KL = -1/2 ln(1/2) - 1/2 ln(3/2) = 1/2 ln(4/3).
    found = distance_from_mean(each[0].requires_grad_(), each, torch.ones(2))
    assert float(found.detach()) == pytest.approx(0.5 * math.log(4 / 3))
    (gradient,) = torch.autograd.grad(found, each[0])
    torch.testing.assert_close(gradient, torch.tensor([[-0.25, 0.25]]))  # softmax minus the fixed mean
    halved = distance_from_mean(each[0], each, torch.full((2,), 0.5))
    assert float(halved.detach()) == pytest.approx(0.25 * (0.5 * math.log(100 / 36)), rel=1e-5)  # of (1/10, 9/10)


def test_ride_s_loss_is_that_of_its_experts_less_their_diversity(build):
    method = build("dataset=cifar10_lt", "method=ride", "method.diversity=0.2")
    batch = random_batch(0)
    cosines = method.eval().cosines(batch.images)
    each = [30 * one for one in cosines]
    for epoch, temperature in ((0, torch.ones(3)), (160, method.tilt)):
        individual = sum(method.criterion(one, [(batch.labels, 1.0)], clock(epoch)) for one in cosines)
        apart = sum(distance_from_mean(one, each, temperature) for one in each)
        found = method.expert_losses(cosines, batch.labels, clock(epoch)).loss
        torch.testing.assert_close(found, individual - 0.2 * apart)
    shares = 3 * torch.tensor(COUNTS) / sum(COUNTS)
    torch.testing.assert_close(method.tilt, (0.05 * shares + 0.95) / (0.05 * shares + 0.95).max())


def test_sade_s_experts_are_for_three_distributions(build):
    method = build("method=sade", "method.tau=2")
    assert reversed_prior(torch.tensor([0.5, -1.0, 3.0])).tolist() == [0.5, 3.0, -1.0]
    prior = log_prior(COUNTS)
    batch = random_batch(0)
    one, two, three = (30 * cosines for cosines in method.eval().cosines(batch.images))
    corrections = (0, prior, prior - 2 * prior.flip(0))
    expected = sum(
        F.cross_entropy(logits + correction, batch.labels)
        for logits, correction in zip((one, two, three), corrections, strict=True)
    )
    torch.testing.assert_close(method({"train": batch}, {}, clock()).loss, expected)
    assert [stage.name for stage in method.stages] == ["train"]


def test_stability_is_the_mean_cosine_of_two_views():
    first = torch.tensor([[[0.0, 100.0], [100.0, 0.0]], [[100.0, 0.0], [100.0, 0.0]]])  # two experts, two images
    second = torch.tensor([[[100.0, 0.0], [100.0, 0.0]], [[100.0, 0.0], [100.0, 0.0]]])
    assert float(stability(torch.tensor([0.0, 1.0]), first, second)) == pytest.approx(1)
    assert float(stability(torch.tensor([1.0, 0.0]), first, second)) == pytest.approx(0.5)


def test_an_expert_that_is_unsure_of_an_image_loses_its_share(build):
    split = small_split((1, 16, 16))
    loader = ResidentLoader(split, config_of("dataset=digits_lt").protocol, "cpu", seed=0)
    config = config_of("method=sade").method

    def weighed() -> torch.Tensor:
        views = count()

        def logits(images: torch.Tensor) -> torch.Tensor:
            torn = torch.tensor([[-5.0, 5.0, 0.0], [5.0, -5.0, 0.0]])[next(views) % 2].expand(len(images), 3)
            steady = torch.tensor([2.0, 0.0, 0.0]).expand(len(images), 3)
            return torch.stack([steady, torn, steady])

        return aggregation_weights(logits, loader, config, seed=0)

    shares = weighed()
    assert float(shares.sum()) == pytest.approx(1)
    assert shares[1] < 0.3 < float(shares[0]) == pytest.approx(float(shares[2]))
    assert torch.equal(shares, weighed())
    method = build("method=sade", "method.aggregation=test_time", image_shape=(1, 16, 16))
    method.enter_stage(0)
    method.enter_stage(1)
    method.eval()
    with torch.no_grad():
        method.prepare(1, loader)
        found = method.logits(random_batch(0, image_shape=(1, 16, 16)).images)
    assert method.primary_head == "aggregated"
    assert float(method.shares.sum()) == pytest.approx(1)
    each = torch.stack([found[f"expert{number}"] for number in (1, 2, 3)])
    torch.testing.assert_close(found["aggregated"], (method.shares.view(-1, 1, 1) * each).sum(0))
    assert "shares" in method.state_dict()


# --- glmc -----------------------------------------------------------------------------------


def test_weights_by_a_power_of_the_class_sizes():
    found = normalized_weights((8, 4, 2), 1.0)
    torch.testing.assert_close(found, 3 * torch.tensor([1.0, 2.0, 4.0]) / 7)
    torch.testing.assert_close(found, class_weights("inverse_frequency", (8, 4, 2), 0.0))


def test_sides_of_a_box_are_rounded_up():
    share, middle = torch.tensor([0.7]).double(), torch.tensor([3])
    sides = [clipped_boxes(share, middle, middle, (7, 7), up=up).tolist() for up in (False, True)]
    assert sides == [[[2, 4, 2, 4]], [[1, 5, 1, 5]]]  # 3.83 -> 3 or 4


def test_glmc_s_loss(build):
    method = build("method=glmc", "method.consistency=4", "method.label_power=1.2")
    at = clock(epoch=150)
    batches, rows = batches_of(method, at), rows_of(method, at)
    assert [sampler.name for sampler in method.streams(at).values()] == ["uniform", "power", "view", "view"]
    assert float(rows["alpha"]) == pytest.approx(1 - 0.75**2)
    share, (top, bottom, left, right) = rows["share"], rows["box"].tolist()
    mixed = share * batches["train"].images + (1 - share) * batches["partner"].images
    pasted = batches["second"].images.clone()
    pasted[:, :, top:bottom, left:right] = batches["second_partner"].images[:, :, top:bottom, left:right]
    method.train()
    features = [method.backbone(images) for images in (mixed, pasted)]
    own, partner = (F.one_hot(batches[name].labels, 3).float() for name in ("train", "partner"))
    weights = normalized_weights(COUNTS, 1.2)

    def loss(head, weights):
        soft = share * weights * own + (1 - share) * weights * partner
        return sum(-(head(feature).log_softmax(1) * soft).sum(1).mean() for feature in features)

    z = [method.projection(feature) for feature in features]
    p = [method.prediction(one) for one in z]
    apart = -(F.cosine_similarity(p[0], z[1].detach()) + F.cosine_similarity(p[1], z[0].detach())).mean()
    alpha = rows["alpha"]
    plain, weighted = loss(method.plain_head, torch.ones(3)), loss(method.balanced_head, weights)
    expected = alpha * plain + (1 - alpha) * weighted + 4 * apart
    step = method(batches, rows, at)
    torch.testing.assert_close(step.loss, expected, rtol=1e-4, atol=1e-5)
    ours = torch.autograd.grad(step.loss, list(method.parameters()))
    theirs = torch.autograd.grad(expected, list(method.parameters()))
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_glmc_predicts_by_the_head_that_was_re_weighted(build):
    method = build("method=glmc").eval()
    images = random_batch(0).images
    torch.testing.assert_close(method.logits(images)["balanced"], method.balanced_head(method.backbone(images)))
    assert method.primary_head == "balanced"


# --- gpaco ----------------------------------------------------------------------------------


def test_parametric_contrast_by_hand():
    """One anchor of class 0 beside one image of its class (likeness 0): logits (1, 0), so e / (e + 1 + 1)."""
    features, labels = torch.eye(2), torch.tensor([0, 0])
    found = parametric_contrast(torch.tensor([[1.0, 0.0]]), features, labels, temperature=1.0, weight=0.5)
    below = math.log(math.e + 2)
    assert float(found) == pytest.approx(-((1 - below) + 0.5 * (0 - below)) / 1.5)


def test_parametric_contrast_is_the_paper_s_sum_anchor_by_anchor():
    generator = torch.Generator().manual_seed(2)
    labels = torch.tensor([0, 1, 0, 1, 2, 1, 0])
    features = F.normalize(torch.randn(7, 3, generator=generator)).requires_grad_()
    logits = torch.randn(4, 3, generator=generator).requires_grad_()
    total = 0.0
    for i in range(4):
        others = [j for j in range(7) if j != i]
        every = torch.cat([logits[i], features[others] @ features[i] / 0.05])
        pulls = torch.tensor(
            [float(k == labels[i]) for k in range(3)] + [0.01 * (labels[j] == labels[i]) for j in others]
        )
        total = total - (pulls * every.log_softmax(0)).sum() / pulls.sum()
    found = parametric_contrast(logits, features, labels, 0.05, 0.01)
    torch.testing.assert_close(found, total / 4)
    ours = torch.autograd.grad(found, [logits, features], retain_graph=True)
    theirs = torch.autograd.grad(total / 4, [logits, features])
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_gpaco_s_queue_holds_the_last_second_views(build):
    method = build("method=gpaco", "method.queue=8")
    first = copied(method)
    batches = batches_of(method, clock())
    method.train()(batches, {}, clock()).loss.backward()
    assert int(method.oldest) == 6
    assert torch.equal(method.queue_labels[:6], batches["train"].labels)
    assert torch.equal(method.queue[6:], first["queue"][6:])
    torch.testing.assert_close(method.queue.norm(dim=1), torch.ones(8))
    held = method.queue.clone()
    method(batches, {}, clock())
    assert int(method.oldest) == 4
    assert torch.equal(method.queue[4:6], held[4:6])
    assert not any(torch.equal(method.queue[place], held[place]) for place in (6, 7, 0, 3))
    assert all(p.grad is not None for p in method.parameters())
