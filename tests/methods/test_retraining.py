from __future__ import annotations

from dataclasses import asdict

import pytest
import torch
from composed import config_of
from tiny import copied, optimiser, random_batch, take_step

from csa.config.faults import UserError
from csa.methods.classifier import CrossEntropy
from csa.methods.method import Clock


def clock(stage: int = 0, epoch: int = 0) -> Clock:
    return Clock(stage=stage, epoch=epoch, epochs=5)


def test_cross_entropy_trains_on_the_sampler(build):
    method = build("method=ce", "sampler=square_root")
    assert isinstance(method, CrossEntropy)
    assert method.streams(clock()) == {"train": config_of("method=ce", "sampler=square_root").sampler}
    batch = random_batch(0)
    expected = torch.nn.functional.cross_entropy(method.train().head(method.backbone(batch.images)), batch.labels)
    torch.testing.assert_close(method({"train": batch}, {}, clock()).loss, expected)
    before = copied(method)
    take_step(method, clock(), optimiser(method))
    assert all(not torch.equal(before[name], value) for name, value in method.named_parameters())
    assert method.eval().logits(batch.images)["classifier"].shape == (6, 3)


def test_balanced_sampling_is_cross_entropy_on_class_aware_batches(build):
    (stream,) = build("method=cbrs").streams(clock()).values()
    assert (stream.rule, stream.images_per_visit) == ("class_aware", 4)


def test_initial_weights_belong_to_the_seed(build):
    first, again, other = build("method=ce"), build("method=ce"), build("method=ce", "seed=1")
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.head.weight, other.head.weight)
    assert not torch.equal(first.backbone.stem[0].weight, other.backbone.stem[0].weight)


def test_stage_one_is_cross_entropy_to_the_last_bit(build):
    ce, crt = build("method=ce"), build("method=crt")
    crt.enter_stage(0)
    assert dict(crt.stages[0].shared) == dict(ce.stages[0].shared)
    assert dict(crt.stages[0].shared) != dict(build("method=cbrs").stages[0].shared)
    assert crt.streams(clock()) == ce.streams(clock())
    assert [crt.stages[0].lr(e) for e in range(30)] == [ce.stages[0].lr(e) for e in range(30)]
    for method in (ce, crt):
        update = optimiser(method)
        for seed in range(2):
            take_step(method, clock(), update, seed)
    assert copied(ce).keys() == copied(crt).keys()
    assert all(torch.equal(value, crt.state_dict()[name]) for name, value in ce.state_dict().items())
    crt.load_state_dict(ce.state_dict())


@pytest.mark.parametrize("bn_mode", ["train", "eval"])
@pytest.mark.parametrize("head", ["copy", "new"])
def test_stage_two_trains_the_classifier_alone(build, bn_mode: str, head: str):
    method = build("method=crt", f"method.bn_mode={bn_mode}", f"method.head={head}")
    method.enter_stage(0)
    take_step(method, clock(), optimiser(method))
    before = copied(method)
    method.enter_stage(1)
    assert torch.equal(method.head.weight, before["head.weight"]) == (head == "copy")
    start = method.head.weight.clone()
    update = optimiser(method, stage=1)
    assert sum(p.numel() for group in update.param_groups for p in group["params"]) == 64 * 3 + 3
    take_step(method, clock(1), update)
    after = method.state_dict()
    assert not torch.equal(after["head.weight"], start)
    for name, _ in method.backbone.named_parameters():
        assert torch.equal(after[f"backbone.{name}"], before[f"backbone.{name}"])
    moved = [not torch.equal(after[name], before[name]) for name in before if "running" in name]
    assert all(moved) if bn_mode == "train" else not any(moved)


def test_the_new_head_does_not_depend_on_stage_one(build):
    trained, untouched = build("method=crt"), build("method=crt")
    take_step(trained, clock(), optimiser(trained))
    first = untouched.head.weight.clone()
    for method in (trained, untouched):
        method.enter_stage(1)
    assert torch.equal(trained.head.weight, untouched.head.weight)
    assert not torch.equal(untouched.head.weight, first)


def test_stage_two_of_the_mnist_family_goes_through_half_of_its_cosine(build):
    """As released: 4 epochs on the cosine of 8; a shortened one on half of its own."""

    def rates(*words: str) -> list[float]:
        stage = build("dataset=mnist_lt", "method=crt", *words, image_shape=(1, 28, 28)).stages[1]
        return [stage.lr(epoch) for epoch in range(stage.epochs)]

    assert rates() == pytest.approx([0.1, 0.0961940, 0.0853553, 0.0691342], abs=1e-7)
    assert rates("protocol.stage_two.epochs=2") == pytest.approx([0.1, 0.0853553], abs=1e-7)
    assert rates("method.cosine_share=1") == pytest.approx([0.1, 0.0853553, 0.05, 0.0146447], abs=1e-7)


def test_lws_has_a_length_of_its_own_on_imagenet_lt():
    shorter = "protocol.stage_two.epochs=7"
    configs = [
        config_of(f"dataset={dataset}", f"method={method}", shorter)
        for dataset in ("cifar100_lt", "imagenet_lt")
        for method in ("crt", "lws", "lws_mixup")
    ]
    assert [config.method.stage_epochs(config.protocol)[1] for config in configs] == [7, 7, 7, 7, 5, 5]


def test_stage_two_follows_the_protocol(build):
    method = build("dataset=cifar100_lt", "method=crt", image_shape=(3, 8, 8))
    rates = [method.stages[1].lr(epoch) for epoch in range(method.stages[1].epochs)]
    published = [0.1, 0.09755, 0.09045, 0.07939, 0.06545, 0.05, 0.03455, 0.02061, 0.00955, 0.00245]
    assert rates == pytest.approx(published, abs=5e-6)
    (stream,) = method.streams(clock(1)).values()
    assert (stream.rule, stream.draws, stream.images_per_visit) == ("class_aware", "images", 4)
    mnist = build("dataset=mnist_lt", "method=crt", image_shape=(1, 28, 28))
    (stream,) = mnist.streams(clock(1)).values()
    assert (stream.draws, mnist.stages[1].epochs, mnist.config.head, mnist.config.bn_mode) == (
        "cycle",
        4,
        "copy",
        "eval",
    )


def test_the_uniform_stream_is_the_configured_one(build):
    configured = config_of("method=ce").sampler
    assert asdict(build("method=crt").streams(clock())["train"]) == asdict(configured)


def test_a_method_that_cannot_be_imported_is_a_fault(build):
    with pytest.raises(UserError, match=r"method\.target=csa\.methods\.nothing\.Nothing: cannot be imported"):
        build("method=ce", "method.target=csa.methods.nothing.Nothing")


# --- LWS, and mixup in stage one ------------------------------------------------------------


@pytest.mark.parametrize("name", ["lws", "lws_mixup"])
def test_scales_alone_are_learned_on_the_stage_one_classifier(build, name):
    method = build(f"method={name}", "method.bn_mode=eval")
    method.enter_stage(0)
    take_step(method, clock(), optimiser(method))
    images = random_batch(1).images
    first = method.eval().logits(images)["classifier"]
    method.enter_stage(1)
    method.train_stage(1)
    assert torch.equal(method.logits(images)["classifier"], first)
    before = copied(method)
    (group,) = method.parameter_groups(1)
    assert [parameter.numel() for parameter in group["params"]] == [3]
    take_step(method, clock(1), optimiser(method, stage=1))
    after = copied(method)
    assert not torch.equal(after["scales"], before["scales"])
    assert all(torch.equal(after[key], before[key]) for key in before if key != "scales")
    scaled = after["scales"] * method.head(method.backbone(images))
    torch.testing.assert_close(method.logits(images)["classifier"], scaled)


def test_stage_one_of_lws_is_that_of_crt(build):
    ce, lws = build("method=ce"), build("method=lws")
    assert dict(lws.stages[0].shared) == dict(ce.stages[0].shared)
    assert lws.state_dict().keys() == ce.state_dict().keys()


@pytest.mark.parametrize("name", ["crt_mixup", "lws_mixup"])
def test_stage_one_is_mixup_to_the_last_bit_and_stage_two_has_none(build, name):
    mixup, method = build("method=mixup"), build(f"method={name}")
    method.enter_stage(0)
    assert dict(method.stages[0].shared) == dict(mixup.stages[0].shared)
    assert type(method.config).starts_from == "mixup"
    for one in (mixup, method):
        take_step(one, clock(), optimiser(one))
    assert all(torch.equal(value, method.state_dict()[key]) for key, value in mixup.state_dict().items())
    assert method.phase(clock()) == "mixup"
    method.enter_stage(1)
    assert method.phase(clock(1)) == "plain"
    assert method.draws(clock(1), [4], torch.Generator()) == {}
    batch = random_batch(2)
    loss = method({"train": batch}, {}, clock(1)).loss
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(method.outputs(batch.images), batch.labels))
