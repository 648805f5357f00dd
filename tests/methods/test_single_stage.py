"""focal, cb_focal, ce_drs, ce_drw, ldam_drw, logit_adjustment, balanced_softmax as methods."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from composed import config_of
from test_class_weights import CIFAR10
from tiny import COUNTS, METHODS, clocks, copied, fill, optimiser, random_batch, take_step
from torch.nn import functional as F

from csa.config.faults import UserError
from csa.data.samplers import epoch_indices
from csa.methods.losses import class_weights, log_prior
from csa.methods.method import Clock
from csa.models.heads import NormalizedLinear
from csa.training.evaluation import best_temperature

LENGTHS = [(200, 160), (10, 8), (8, 6)]
"""Epochs of training, and where what is deferred begins."""


def clock(epoch: int = 0, epochs: int = 200) -> Clock:
    return Clock(stage=0, epoch=epoch, epochs=epochs)


def outputs_and_loss(method, epoch: int = 0):
    batch = random_batch(0)
    method.train()
    step = method({"train": batch}, {}, clock(epoch))
    return method.head(method.backbone(batch.images)), batch.labels, step.loss


NEED_MORE = {
    "csa": "CSA's mask",
    "csa_mixup": "CSA's mask",
    "cam_bs": "CAM-BS",
    "fsa": "FSA",
    "oltr": "OLTR",
    "bbn": "no last block",
    "ride": "no last block",
    "sade": "no last block",
}
NO_MAP = ("dataset=cifar10_lt", "backbone=timm", "backbone.model=test_vit")


@pytest.mark.parametrize(
    "words",
    [f"method={name}" for name in METHODS if name not in NEED_MORE] + ["method=csa method.bank=false"],
)
def test_a_network_without_a_map_trains_with_every_method_that_reads_none(build, words):
    method = build(*NO_MAP, *words.split(), image_shape=(1, 16, 16))
    method.enter_stage(0)
    step = take_step(method, clock(20), optimiser(method), image_shape=(1, 16, 16))
    assert step.loss.isfinite()


@pytest.mark.parametrize(("name", "told"), NEED_MORE.items())
def test_the_others_say_so(build, name, told):
    with pytest.raises(UserError, match=told):
        build(*NO_MAP, f"method={name}", image_shape=(1, 16, 16))


# --- focal ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["focal", "cb_focal"])
def test_the_sigmoid_form_starts_at_the_prior_and_spares_its_bias(build, name):
    method = build(f"method={name}")
    assert method.head.bias.tolist() == pytest.approx([-math.log(len(COUNTS) - 1)] * len(COUNTS))
    groups = method.parameter_groups(0)
    assert groups[1] == {"params": [method.head.bias], "weight_decay": 0.0}
    assert sum(len(group["params"]) for group in groups) == len(list(method.parameters()))
    ordinary = build(f"method={name}", "method.prior_bias=false")
    assert torch.equal(ordinary.head.bias, build("method=ce").head.bias)
    assert len(ordinary.parameter_groups(0)) == 1
    assert len(build(f"method={name}", "method.form=softmax").parameter_groups(0)) == 1


@pytest.mark.parametrize("name", ["focal", "cb_focal"])
def test_each_class_has_a_probability_of_its_own_in_the_sigmoid_form(build, name):
    logits = torch.tensor([[0.0, -2.0, 3.0]])
    sigmoid, softmax = (build(f"method={name}", f"method.form={form}") for form in ("sigmoid", "softmax"))
    assert sigmoid.probabilities(logits).tolist() == [pytest.approx([0.5, 0.1192029, 0.9525741], abs=1e-7)]
    assert softmax.probabilities(logits).tolist() == [pytest.approx([0.0471234, 0.0063775, 0.9464991], abs=1e-7)]
    last = torch.tensor([2])
    assert float(softmax.log_likelihood(logits, last)) == pytest.approx(math.log(0.9464991), abs=1e-6)
    likelihood = 0.5 * (1 - 0.1192029) * 0.9525741
    assert float(sigmoid.log_likelihood(logits, last)) == pytest.approx(math.log(likelihood), abs=1e-6)


@pytest.mark.parametrize(("form", "logits"), [("softmax", [2.0, 0.0]), ("sigmoid", [2.0, -2.0])])
def test_at_the_best_temperature_confidence_is_the_share_of_right_images(build, form, logits):
    method, outputs = build("method=focal", f"method.form={form}"), torch.tensor([logits] * 100)
    labels = torch.tensor([0] * 73 + [1] * 27)
    assert best_temperature(method, outputs, labels) == pytest.approx(2 / math.log(73 / 27), rel=1e-3)
    assert best_temperature(method, outputs, torch.zeros(100, dtype=torch.long)) == pytest.approx(0.1, rel=1e-3)


def test_class_balanced_focal_is_focal_times_the_weight_of_the_class(build):
    plainly, balanced = build("method=focal", "method.gamma=1"), build("method=cb_focal")
    outputs, labels, loss = outputs_and_loss(balanced)
    weights = class_weights("effective_number", COUNTS, 0.9999)
    per_image = plainly.criterion.per_image(outputs, labels)
    torch.testing.assert_close(loss, (weights[labels] * per_image).mean())
    torch.testing.assert_close(outputs_and_loss(build("method=cb_focal", "method.beta=0"))[2], per_image.mean())
    torch.testing.assert_close(outputs_and_loss(plainly)[2], per_image.mean())


def test_the_released_softmax_form_has_its_weights_inside(build):
    words = ("method=cb_focal", "method.form=softmax")
    inside, outside = (outputs_and_loss(build(*words, f"method.weights={where}")) for where in ("inside", "outside"))
    outputs, labels, loss = inside
    weighted = class_weights("effective_number", COUNTS, 0.9999)[labels] * F.cross_entropy(
        outputs, labels, reduction="none"
    )
    torch.testing.assert_close(loss, ((1 - torch.exp(-weighted)) * weighted).mean())
    assert not torch.allclose(loss, outside[2])


# --- deferred -------------------------------------------------------------------------------


@pytest.mark.parametrize(("epochs", "start"), LENGTHS)
def test_resampling_changes_what_is_drawn(build, epochs, start):
    method = build("dataset=cifar10_lt", "method=ce_drs", f"protocol.epochs={epochs}", image_shape=(3, 8, 8))
    labels = np.repeat(np.arange(10), CIFAR10)

    def drawn(epoch: int) -> np.ndarray:
        (stream,) = method.streams(clock(epoch, epochs)).values()
        return epoch_indices(stream, labels, CIFAR10, np.random.default_rng(epoch))

    assert sorted(drawn(start - 1)) == list(range(len(labels)))
    assert sorted(drawn(0)) == list(range(len(labels)))
    counts = np.bincount(labels[drawn(start)], minlength=10)
    expected = len(labels) / 10
    assert ((counts - expected) ** 2 / expected).sum() < 30  # chi-squared with 9 degrees of freedom
    assert method.streams(clock(start)) == method.streams(clock(epochs - 1))


def test_a_start_that_is_set_outright_does_not_scale(build):
    method = build("dataset=cifar10_lt", "method=ce_drs", "method.start_epoch=3", "protocol.epochs=10")
    rules = [method.streams(clock(epoch))["train"].rule for epoch in (2, 3)]
    assert rules == ["shuffle", "power"]


@pytest.mark.parametrize("name", ["ce_drw", "ldam_drw"])
@pytest.mark.parametrize(("epochs", "start"), LENGTHS)
def test_reweighting_begins_where_resampling_does(build, name, epochs, start):
    method = build("dataset=cifar10_lt", f"method={name}", f"protocol.epochs={epochs}", image_shape=(3, 8, 8))
    assert [method.phase(clock(epoch)) for epoch in (0, start - 1, start)] == ["plain", "plain", "weighted"]


def test_reweighted_cross_entropy_is_torchs(build):
    method = build("dataset=cifar10_lt", "method=ce_drw", image_shape=(1, 8, 8))
    outputs, labels, loss = outputs_and_loss(method, 159)
    torch.testing.assert_close(loss, F.cross_entropy(outputs, labels))
    outputs, labels, loss = outputs_and_loss(method, 160)
    weights = class_weights("effective_number", COUNTS, 0.9999)
    torch.testing.assert_close(loss, F.cross_entropy(outputs, labels, weights))
    by_images = build("dataset=cifar10_lt", "method=ce_drw", "method.reduction=mean")
    assert not torch.allclose(outputs_and_loss(by_images, 160)[2], loss)
    inverse = build("dataset=cifar10_lt", "method=ce_drw", "method.class_weights=inverse_frequency")
    assert inverse.criterion.class_weights.tolist() == pytest.approx([3 / 7, 6 / 7, 12 / 7])


def test_ldam(build):
    method = build("method=ldam_drw", "dataset=cifar10_lt")
    assert isinstance(method.head, NormalizedLinear)
    torch.testing.assert_close(method.head.weight.norm(dim=1), torch.ones(3), atol=1e-5, rtol=0)
    assert sum(parameter.numel() for parameter in method.head.parameters()) == 64 * 3
    cosines, labels, loss = outputs_and_loss(method)
    assert cosines.abs().max() <= 1 + 1e-6
    margins = 0.5 * (2 / torch.tensor([8.0, 4.0, 2.0])) ** 0.25
    torch.testing.assert_close(loss, F.cross_entropy(30 * (cosines - F.one_hot(labels, 3) * margins), labels))
    batch = random_batch(1)
    method.eval()
    torch.testing.assert_close(
        method.logits(batch.images)["classifier"], 30 * method.head(method.backbone(batch.images))
    )


def test_ldam_has_the_published_number_of_parameters(build):
    for classes, total in ((10, 464_144), (100, 469_904)):
        head = NormalizedLinear(64, classes)
        backbone = build("method=ce", "dataset=cifar10_lt", image_shape=(3, 32, 32)).backbone
        assert sum(p.numel() for p in (*backbone.parameters(), *head.parameters())) == total


# --- logit adjustment -----------------------------------------------------------------------


@pytest.mark.parametrize(("words", "tau"), [(["method=balanced_softmax"], 1), (["method=logit_adjustment"], 1)])
def test_the_loss_sees_adjusted_logits_and_the_prediction_plain_ones(build, words, tau):
    method = build(*words)
    outputs, labels, loss = outputs_and_loss(method)
    torch.testing.assert_close(loss, F.cross_entropy(outputs + tau * log_prior(COUNTS), labels))
    batch = random_batch(1)
    method.eval()
    assert torch.equal(method.logits(batch.images)["classifier"], method.head(method.backbone(batch.images)))


# --- all of them ----------------------------------------------------------------------------

LOSSES = ("logit_adjusted", "bcl")
NAMES = ["focal", "cb_focal", "ce_drs", "ce_drw", "ldam_drw", "logit_adjustment", "balanced_softmax", "mixup", "remix"]


@pytest.mark.parametrize("name", NAMES)
def test_a_step_trains_everything_from_the_weights_of_cross_entropy(build, name):
    method, ce = build(f"method={name}"), build("method=ce")
    for theirs, ours in zip(ce.backbone.parameters(), method.backbone.parameters(), strict=True):
        assert torch.equal(theirs, ours)
    before = copied(method)
    take_step(method, clock(), optimiser(method, momentum=0))
    assert all(not torch.equal(before[key], value) for key, value in method.named_parameters())
    assert not any("criterion" in key for key in method.state_dict())


def test_methods_on_the_sampler_follow_it():
    stream = config_of("method=focal", "sampler=class_balanced")
    assert (stream.method.streams, stream.sampler.q) == ("sampler", 0)


@pytest.mark.parametrize("epochs", [200, 10])
@pytest.mark.parametrize("name", METHODS)
def test_the_lengths_of_the_stages_are_known_without_building_anything(build, name, epochs):
    words = ("dataset=cifar10_lt", f"method={name}", f"protocol.epochs={epochs}")
    config = config_of(*words)
    assert config.method.stage_epochs(config.protocol) == tuple(stage.epochs for stage in build(*words).stages)


@pytest.mark.parametrize(
    "words", [*((f"method={name}",) for name in METHODS), *(("method=csa", f"method.loss={loss}") for loss in LOSSES)]
)
def test_so_are_the_batches_that_a_step_takes_through_the_network(build, words):
    """In training mode: what M2m translates goes back at once, none of it is kept until the end of the step."""
    shape, passed, most = (1, 8, 8), [], 0
    words = ("dataset=cifar10_lt", *words)
    method = build(*words, image_shape=shape)
    method.backbone.normalize.register_forward_pre_hook(
        lambda module, images: passed.append(len(images[0]) * (module.training and torch.is_grad_enabled()))
    )
    for stage in range(len(method.stages)):
        method.enter_stage(stage)
        fill(method)
        for moment in clocks(method, stage):
            passed.clear()
            take_step(method, moment, optimiser(method, stage), image_shape=shape)
            most = max(most, sum(passed) // 6)
    assert config_of(*words).method.passes() == most
