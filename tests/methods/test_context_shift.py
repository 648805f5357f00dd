from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from tiny import copied, optimiser, random_batch, take_step, whole_step
from torch.nn import functional as F

from csa.methods.context_shift import ContextShift
from csa.methods.method import WITHIN, Clock

ALWAYS = ("method.start_epoch=0", "delta=0")
AS_PRINTED = ("method.mask_pass=train", "method.start_epoch=0", "method.empty_bank=never")


def clock(epoch: int = 0, epochs: int = 10) -> Clock:
    return Clock(stage=0, epoch=epoch, epochs=epochs)


@pytest.fixture
def csa(build):
    """A CSA with a bank of 6 entries, as large as the batches of these tests."""

    def method(*words: str, **more) -> ContextShift:
        return build("method=csa", "method.bank_size=6", "protocol.epochs=10", *words, **more)

    return method


def norm_statistics(method: ContextShift) -> Iterator[torch.Tensor]:
    return (value.clone() for name, value in method.state_dict().items() if "running" in name or "tracked" in name)


def test_switches_follow_the_length_of_training(build):
    for epochs, start, off in ((200, 10, 3), (10, 0, 1), (8, 0, 1), (60, 3, 1)):
        method = build("method=csa_mixup", f"protocol.epochs={epochs}")
        assert [method.started(clock(epoch, epochs)) for epoch in (0, start)] == [start == 0, True]
        assert start == 0 or not method.started(clock(start - 1, epochs))
        assert method.mixes(clock(epochs - off - 1, epochs))
        assert not method.mixes(clock(epochs - off, epochs))


def test_phases(csa):
    method = csa("method.start_epoch=2", "delta=0")
    assert [method.phase(clock(epoch)) for epoch in (0, 1, 2)] == ["uniform", "uniform", "both"]
    assert list(method.streams(clock(1))) == ["uniform"]
    assert list(method.streams(clock(2))) == ["uniform", "balanced"]
    assert csa(*ALWAYS, "method.bank=false").phase(clock()) == "both"
    assert csa("method.start_epoch=2", "method.empty_bank=never").phase(clock(0)) == "lending"
    mixed = csa("method.start_epoch=2", "method.mixup_alpha=1", "method.mixup_off_epochs=5")
    assert [mixed.phase(clock(epoch)) for epoch in (1, 4, 5)] == ["uniform+mixup", "both+mixup", "both"]


def test_how_a_step_goes_on_is_decided_before_forward_while_the_bank_fills(csa):
    method = csa("method.start_epoch=1", "method.bank_size=9")
    assert method.foreseen(clock(0), 6) == "rests"
    assert method.foreseen(clock(1), 6) is None
    assert method.decision(clock(1), 6) == "rests"
    holding(method, 5)
    assert method.foreseen(clock(1), 5) is None  # nobody has looked
    assert [method.decision(clock(1), images) for images in (6, 5)] == ["rests", "learns"]
    assert [method.foreseen(clock(1), images) for images in (6, 5)] == [None, "learns"]
    method.bank.sample(torch.arange(9), 5)
    assert method.decision(clock(1), 6) == "decays"
    method.begin_epoch(clock(2))
    assert method.foreseen(clock(2), 1) is None
    assert csa(*ALWAYS, "method.bank=false").foreseen(clock(), 6) == "learns"
    printed = csa(*AS_PRINTED, "delta=0")
    assert printed.foreseen(clock(), 6) == WITHIN
    take_step(printed, clock(), optimiser(printed))
    assert printed.foreseen(clock(), 6) == "learns"


def test_before_the_start_it_is_cross_entropy(csa, build):
    method, ce = csa("method.start_epoch=1"), build("method=ce", "protocol.epochs=10")
    ours, theirs = (take_step(m, clock(), optimiser(m), seed=3) for m in (method, ce))
    assert torch.equal(ours.loss, theirs.loss)
    assert ours.measures.keys() == {"loss_uniform"}
    assert torch.equal(method.uniform_head.weight, ce.head.weight)


def holding(method: ContextShift, entries: int) -> ContextShift:
    """From here on nothing is fitted; the bank has so many entries."""
    method.config = replace(method.config, delta=2)
    method.bank.push(torch.rand(entries, 1, 8, 8), torch.rand(entries, 1, 8, 8), torch.ones(entries, dtype=torch.bool))
    return method


def test_a_balanced_head_that_never_learned_rests_while_the_bank_fills(csa):
    """No weight decay and no momentum either, and no balanced batch through batch-norm."""
    method = holding(csa(*ALWAYS), 5)
    before = copied(method)
    update = optimiser(method)
    for seed in range(2):
        step = take_step(method, clock(), update, seed)
    assert float(step.measures["loss_balanced"]) == float(step.measures["fitted"]) == 0
    assert torch.equal(step.loss, step.measures["loss_uniform"])
    for name, parameter in method.balanced_head.named_parameters():
        assert torch.equal(parameter, before[f"balanced_head.{name}"])
        assert parameter not in update.state
    assert not torch.equal(method.uniform_head.weight, before["uniform_head.weight"])
    assert int(method.backbone.stem[1].num_batches_tracked) == int(before["backbone.stem.1.num_batches_tracked"]) + 2


def test_one_that_did_goes_on_with_decay_and_momentum(csa):
    """As with gradients of zeros: v <- 0.9 v + 0.1 w, w <- w - 0.1 v, through every step in which the bank refills."""
    method = csa(*ALWAYS)
    update = optimiser(method, lr=0.1, momentum=0.9, weight_decay=0.1)
    take_step(method, clock(), update)
    expected = {
        parameter: (parameter.detach().clone(), update.state[parameter]["momentum_buffer"].clone())
        for parameter in method.balanced_head.parameters()
    }
    method.begin_epoch(clock(1))
    holding(method, 5)
    for seed in (1, 2):
        step = take_step(method, clock(1), update, seed)
        assert float(step.measures["loss_balanced"]) == 0
        assert torch.equal(step.loss, step.measures["loss_uniform"])
        for parameter, (weight, before) in expected.items():
            momentum = 0.9 * before + 0.1 * weight
            expected[parameter] = weight - 0.1 * momentum, momentum
            torch.testing.assert_close(parameter.detach(), expected[parameter][0])
    assert int(method.backbone.stem[1].num_batches_tracked) == 2 + 2


@pytest.mark.parametrize(
    ("size", "entries", "images", "due"),
    [
        (6, 5, 6, False),
        (6, 6, 6, True),
        (6, 3, 4, False),  # an epoch's last, smaller batch
        (6, 4, 4, True),
        (9, 5, 6, False),
        (9, 6, 6, True),
        (2, 1, 6, False),  # a bank smaller than the batch is to be full
        (2, 2, 6, True),
        (2, 1, 2, False),
    ],
)
def test_the_bank_is_to_have_as_many_entries_as_the_batch_has_images(csa, size, entries, images, due):
    method = holding(csa(*ALWAYS, f"method.bank_size={size}"), entries)
    step = take_step(method, clock(), optimiser(method), size=images)
    assert (float(step.measures["loss_balanced"]) > 0) == due
    assert bool(method.bank.lent) == due


@pytest.mark.parametrize(("words", "order"), [(ALWAYS, ("balanced", "uniform")), (AS_PRINTED, ("uniform", "balanced"))])
def test_running_statistics_tell_the_order_of_the_passes(csa, words, order):
    """r <- 0.9 r + 0.1 first, r <- 0.9 r + 0.1 second: it ends as 47 % of the first and 53 % of the second."""
    batches = {"uniform": random_batch(0), "balanced": random_batch(1)}
    method, *fresh = (csa(*words, "delta=0") for _ in range(3))
    for each, name in zip(fresh, order, strict=True):
        each.backbone(batches[name].images)
    first, second = (10 * each.backbone.stem[1].running_mean for each in fresh)
    draws = {"lambda": torch.tensor(0.0), "context_order": torch.arange(6)}  # nothing is blended
    method.train_stage(0)
    whole_step(method, batches, draws, clock())
    mean = method.backbone.stem[1].running_mean
    torch.testing.assert_close(mean, 0.09 * first + 0.1 * second)
    mean.copy_(0.09 / 0.19 * first + 0.1 / 0.19 * second)
    whole_step(method, batches, draws, clock())
    torch.testing.assert_close(mean, 0.09 / 0.19 * first + 0.1 / 0.19 * second)


def test_fullness_counts_this_step(csa):
    """V = B and everything is fitted: the balanced branch trains in the very first step."""
    method = csa(*ALWAYS)
    step = take_step(method, clock(), optimiser(method))
    assert float(step.measures["loss_balanced"]) > 0
    assert float(step.measures["bank"]) == float(step.measures["fitted"]) == 1
    torch.testing.assert_close(step.loss, step.measures["loss_uniform"] + step.measures["loss_balanced"])


def test_the_step_as_algorithm_1_says(csa):
    """The whole step of a full bank, recomputed from the published formula."""
    method, same = csa(*ALWAYS), csa(*ALWAYS)
    uniform, balanced = random_batch(0), random_batch(1)
    draws = {"lambda": torch.tensor(0.7), "context_order": torch.tensor([5, 0, 3, 1, 4, 2])}
    method.train_stage(0)
    step = whole_step(method, {"uniform": uniform, "balanced": balanced}, draws, clock())
    with torch.no_grad():
        features = same.backbone.eval().feature_map(uniform.images)
        rows = same.uniform_head.weight[uniform.labels]
        cam = torch.einsum("bfhw,bf->bhw", features, rows).relu()[:, None]
        low, high = cam.amin((2, 3), keepdim=True), cam.amax((2, 3), keepdim=True)
        cam = ((cam - low) / (high - low)).nan_to_num()
        mask = (1 - F.interpolate(cam, (8, 8), mode="bicubic").clamp(0, 1)) ** 2
    same.backbone.train()
    order = draws["context_order"]
    blended = 0.7 * mask[order] * uniform.images[order] + (1 - 0.7 * mask[order]) * balanced.images
    loss = F.cross_entropy(same.balanced_head(same.backbone(blended)), balanced.labels)
    loss = loss + F.cross_entropy(same.uniform_head(same.backbone(uniform.images)), uniform.labels)
    torch.testing.assert_close(step.loss, loss)
    torch.testing.assert_close(list(norm_statistics(method)), list(norm_statistics(same)))


def test_only_fitted_images_are_lent(csa):
    method = csa("method.start_epoch=0", "delta=0.5")
    batch = random_batch(0)
    with torch.no_grad():
        probability = method.eval().logits(batch.images)["uniform"].softmax(1)
    fitted = probability.gather(1, batch.labels[:, None])[:, 0] >= 0.5
    assert 0 < int(fitted.sum()) < 6
    method.train_stage(0)
    whole_step(method, {"uniform": batch, "balanced": batch}, {}, clock())
    assert int(method.bank.count) == int(fitted.sum())
    assert torch.equal(method.bank.images[: int(fitted.sum())], batch.images[fitted])


def test_the_mask_pass_disturbs_nothing(csa):
    method = csa(*ALWAYS)
    method.train_stage(0)
    method.backbone.stages[0][0].norm1.eval()  # a part that was frozen stays so
    modes = [module.training for module in method.modules()]
    before = list(norm_statistics(method))
    assert not method.evaluation_map(random_batch(0).images).requires_grad
    assert modes == [module.training for module in method.modules()]
    assert all(torch.equal(a, b) for a, b in zip(before, norm_statistics(method), strict=True))


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_both_losses_reach_the_backbone(csa, precision: torch.dtype):
    """Under autocast too, where weights cast in the mask pass must not be re-used without their gradient."""
    method = csa(*ALWAYS)
    batches = {"uniform": random_batch(0), "balanced": random_batch(1)}
    draws = {"lambda": torch.tensor(0.5), "context_order": torch.arange(6)}
    method.train_stage(0)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision is torch.bfloat16):
        step = whole_step(method, batches, draws, clock())
    step.loss.backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in method.parameters())
    method.zero_grad(set_to_none=True)
    method.balanced_loss(batches, draws, clock()).backward()
    assert method.backbone.stem[0].weight.grad.any()
    assert method.uniform_head.weight.grad is None


def test_without_bank_the_balanced_batch_is_unblended(csa):
    method, same = csa(*ALWAYS, "method.bank=false"), csa(*ALWAYS, "method.bank=false")
    assert not [name for name in method.state_dict() if name.startswith("bank")]
    assert method.draws(clock(), [6], torch.Generator()) == {}
    uniform, balanced = random_batch(0), random_batch(1)
    method.train_stage(0)
    step = whole_step(method, {"uniform": uniform, "balanced": balanced}, {}, clock())
    plain = F.cross_entropy(same.balanced_head(same.backbone(balanced.images)), balanced.labels)
    plain = plain + F.cross_entropy(same.uniform_head(same.backbone(uniform.images)), uniform.labels)
    torch.testing.assert_close(step.loss, plain)
    torch.testing.assert_close(list(norm_statistics(method)), list(norm_statistics(same)))
    assert csa("method.start_epoch=1", "method.bank=false").streams(clock()).keys() == {"uniform"}


def test_as_printed_one_pass_serves_loss_and_mask(csa):
    """Algorithm 1 as printed: probabilities and masks come from the training pass, the bank lives on."""
    method, same = csa(*AS_PRINTED, "delta=0"), csa(*AS_PRINTED, "delta=0")
    before = copied(method)
    batch = random_batch(0)
    step = take_step(method, clock(), optimiser(method))
    feature_map = same.train().backbone.feature_map(batch.images)
    expected = F.cross_entropy(same.uniform_head(feature_map.mean((2, 3))), batch.labels)
    torch.testing.assert_close(step.measures["loss_uniform"], expected)
    same.lend(batch, feature_map.detach())
    torch.testing.assert_close(method.bank.masks, same.bank.masks)
    name = "backbone.stem.1.num_batches_tracked"
    assert int(method.state_dict()[name]) == int(before[name]) + 2
    method.begin_epoch(clock(1))
    assert int(method.bank.count) == 6


def test_never_emptied_it_also_fills_before_the_start(csa):
    method = csa("method.start_epoch=5", "method.empty_bank=never", "delta=0")
    before = copied(method)
    step = take_step(method, clock(0), optimiser(method))
    assert step.measures.keys() == {"loss_uniform", "fitted", "bank"}
    assert int(method.bank.count) == 6
    assert torch.equal(method.balanced_head.weight, before["balanced_head.weight"])


@pytest.mark.parametrize("words", [ALWAYS, (*AS_PRINTED, "delta=0")])
def test_delta_0_is_finite_from_the_first_step(csa, words: tuple[str, ...]):
    """Flat maps are common in a fresh network, and here certain: a head without positive weights."""
    method = csa(*words)
    method.uniform_head.weight.data.abs_().neg_()
    update = optimiser(method)
    for seed in range(3):
        step = take_step(method, clock(), update, seed)
        assert step.loss.isfinite()
        assert step.measures["bank"] == 1
        assert method.bank.masks.isfinite().all()
    assert all(value.isfinite().all() for value in method.parameters())


def test_mixup_mixes_the_uniform_branch_only(csa):
    method, same = (csa(*ALWAYS, "method.mixup_alpha=1", "method.mixup_off_epochs=1") for _ in range(2))
    uniform, balanced = random_batch(0), random_batch(1)
    draws = method.draws(clock(), [6, 6, 4], torch.Generator().manual_seed(0))
    assert draws.keys() == {"lambda", "context_order", "mixup_share", "mixup_order"}
    row = {name: rows[0] for name, rows in draws.items()}
    method.train_stage(0)
    step = whole_step(method, {"uniform": uniform, "balanced": balanced}, row, clock())
    assert torch.equal(method.bank.images, uniform.images)  # the bank holds the images themselves
    share, order = row["mixup_share"], row["mixup_order"]
    logits = same.uniform_head(same.backbone(share * uniform.images + (1 - share) * uniform.images[order]))
    expected = share * F.cross_entropy(logits, uniform.labels)
    expected = expected + (1 - share) * F.cross_entropy(logits, uniform.labels[order])
    torch.testing.assert_close(step.measures["loss_uniform"], expected)
    assert method.draws(clock(9), [6], torch.Generator()).keys() == {"lambda", "context_order"}


def test_one_lambda_and_one_order_of_contexts_a_step(csa):
    method = csa("method.lambda_min=0.2", "method.lambda_max=0.4", "method.bank_size=9")
    draws = method.draws(clock(), [6] * 300 + [2], torch.Generator().manual_seed(0))
    assert draws["context_order"].shape == (301, 9)
    assert draws["lambda"].shape == (301,)
    assert float(draws["lambda"].min()) >= 0.2
    assert float(draws["lambda"].max()) <= 0.4
    assert float(draws["lambda"].mean()) == pytest.approx(0.3, abs=0.01)


def test_a_smaller_last_batch(csa):
    method = csa(*ALWAYS)
    update = optimiser(method)
    take_step(method, clock(), update)
    rows = method.draws(clock(), [6, 4], torch.Generator().manual_seed(0))
    batches = {"uniform": random_batch(2, 4), "balanced": random_batch(3, 4)}
    step = whole_step(method, batches, {name: row[1] for name, row in rows.items()}, clock())
    assert step.loss.isfinite()
    assert float(step.measures["bank"]) == 1


def test_same_draws_same_result(csa):
    methods = csa(*ALWAYS), csa(*ALWAYS)
    for method in methods:
        update = optimiser(method)
        for seed in range(2):
            take_step(method, clock(), update, seed)
    first, second = map(copied, methods)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_continues_from_a_checkpoint_with_a_full_bank(csa):
    method, restored = csa(*ALWAYS), csa(*ALWAYS)
    update = optimiser(method, momentum=0.0)
    take_step(method, clock(), update)
    restored.load_state_dict(copied(method))
    assert restored.foreseen(clock(), 6) == "learns"
    for each in (method, restored):
        take_step(each, clock(), optimiser(each, momentum=0.0), seed=5)
    assert all(torch.equal(value, restored.state_dict()[name]) for name, value in method.state_dict().items())


def test_heads(csa):
    method = csa("method.primary_head=mean").eval()
    logits = method.logits(random_batch(0).images)
    assert method.primary_head == "mean"
    assert tuple(logits) == method.heads
    torch.testing.assert_close(logits["mean"], (logits["uniform"] + logits["balanced"]) / 2)
    assert not torch.equal(logits["uniform"], logits["balanced"])


@pytest.mark.parametrize("words", [ALWAYS, (*AS_PRINTED, "delta=0")])
def test_lenet_takes_grad_cam(csa, words: tuple[str, ...]):
    shape = (1, 12, 12)
    method, same = (csa("backbone=lenet", *words, image_shape=shape) for _ in range(2))
    batch = random_batch(0, image_shape=shape)
    step = take_step(method, clock(), optimiser(method, momentum=0.0), image_shape=shape)
    assert step.loss.isfinite()
    feature_map = same.backbone.feature_map(batch.images).detach().requires_grad_()
    scores = same.uniform_head(same.backbone.embed(feature_map)).gather(1, batch.labels[:, None])
    (gradient,) = torch.autograd.grad(scores.sum(), feature_map)
    cam = (gradient.mean((2, 3), keepdim=True) * feature_map).sum(1).relu()
    assert cam.shape == (6, 2, 2)
    cornered = cam.flatten(1).argmax(1)
    assert method.bank.masks.shape == (6, 1, 12, 12)
    located = [
        place for place, flat in zip(cornered.tolist(), (cam.flatten(1).std(1) == 0).tolist(), strict=True) if not flat
    ]
    masks = [mask for mask in method.bank.masks[:, 0] if mask.min() < 0.5]
    assert len(masks) == len(located) > 0
    for place, mask in zip(located, masks, strict=True):
        row, column = divmod(int(mask.argmin()), 12)
        assert (row >= 6, column >= 6) == (place >= 2, place % 2 == 1)
