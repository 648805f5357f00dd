from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import COUNTS, copied, optimiser, random_batch, take_step

from csa.data.batch import Batch
from csa.methods.m2m import choose, limited, seed_weights, towards_target, translate
from csa.methods.method import Clock

EAGER = ("method=m2m", "dataset=cifar10_lt", "method.beta=0", "method.gamma=0")
"""Every marked image is translated and accepted."""


def clock(stage: int = 1, epoch: int = 199, epochs: int = 200) -> Clock:
    return Clock(stage=stage, epoch=epoch, epochs=epochs)


@pytest.fixture
def second_stage(build):
    def built(*words: str):
        method = build(*(words or EAGER))
        method.enter_stage(0)
        take_step(method, clock(0, 0), optimiser(method))
        method.enter_stage(1)
        method.train_stage(1)
        return method

    return built


def rows(method, batch: Batch, seed: int = 0) -> dict[str, torch.Tensor]:
    drawn = method.draws(clock(), [len(batch.labels)], torch.Generator().manual_seed(seed))
    return {name: row[0] for name, row in drawn.items()}


# --- rules ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gap", "expected"), [(0, 0), (10, 0.009955), (100, 0.095208), (495, 0.390580), (4950, 0.992934), (-100, 0)]
)
def test_seed_weights(gap, expected):
    weight = seed_weights(torch.tensor(5000.0 + gap), torch.tensor(5000.0), 0.999)
    assert float(weight) == pytest.approx(expected, abs=1e-6)


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=9), st.floats(0, 1, exclude_max=True, width=32))
def test_what_has_no_weight_is_not_chosen(weights, uniform):
    row = torch.tensor([weights])
    place = int(choose(row, torch.tensor([uniform])))
    assert 0 <= place < len(weights)
    assert row[0, place] > 0 or uniform * row.sum() >= 0.999 * row.sum()


def test_choices_follow_the_weights():
    weights = torch.tensor([0.0, 1.0, 3.0, 0.0]).expand(40_000, 4)
    chosen = choose(weights, torch.rand(40_000, generator=torch.Generator().manual_seed(0)))
    assert (chosen.bincount(minlength=4) / 40_000).tolist() == pytest.approx([0, 0.25, 0.75, 0], abs=0.01)


def test_noise_is_limited():
    noise = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0)) - 0.5
    torch.testing.assert_close(limited(noise, "channel").transpose(0, 1).flatten(1).norm(dim=1), torch.full((3,), 0.5))
    torch.testing.assert_close(limited(noise, "image").flatten(1).norm(dim=1), torch.full((6,), 0.5))


def test_every_step_of_a_translation_has_one_length_and_stays_in_range():
    torch.manual_seed(0)
    images = torch.rand(4, 1, 5, 5)
    weight = torch.randn(1, 5, 5)
    seen = [images]

    def objective(x: torch.Tensor) -> torch.Tensor:
        seen.append(x.detach().clone())
        return (weight * x).sum()

    moved = translate(images, objective, 0.1, 10)
    path = [*seen[1:], moved]
    for before, after in pairwise(path):
        assert ((after - before).flatten(1).norm(dim=1) <= 0.1 + 1e-6).all()
        assert ((after >= 0) & (after <= 1)).all()
    assert objective(moved) < objective(images)
    one_step = translate(torch.full((1, 1, 5, 5), 0.5), objective, 0.1, 1)
    torch.testing.assert_close(one_step[0], 0.5 - 0.1 * weight / weight.norm())


def test_a_flat_objective_moves_nothing():
    images = torch.rand(2, 1, 3, 3)
    assert torch.equal(translate(images, lambda x: 0 * x.sum(), 0.1, 3), images)


def test_the_objective_and_its_gradient():
    torch.manual_seed(0)
    helper, model = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[0.1, 0.2, 0.3]])
    value = towards_target(helper, model, torch.tensor([0]), torch.tensor([2]), 0.5)
    assert float(value) == pytest.approx(2.407606 + 0.5 * 0.3, abs=1e-6)
    logits = torch.randn(4, 3, requires_grad=True)
    targets, seeds = torch.tensor([0, 1, 2, 0]), torch.tensor([1, 0, 0, 2])
    (gradient,) = torch.autograd.grad(towards_target(logits, logits, targets, seeds, 0.5), logits)
    shift = 1e-2
    for i in range(4):
        for k in range(3):
            sides = [logits.detach().clone() for _ in range(2)]
            sides[0][i, k] += shift
            sides[1][i, k] -= shift
            up, down = (float(towards_target(z, z, targets, seeds, 0.5)) for z in sides)
            assert float(gradient[i, k]) == pytest.approx((up - down) / (2 * shift), abs=2e-3)


# --- stages ---------------------------------------------------------------------------------


def test_the_helper_is_a_finished_cross_entropy_and_the_model_starts_afresh(build):
    ce, method = build("method=ce"), build("method=m2m")
    assert dict(method.stages[0].shared) == dict(ce.stages[0].shared)
    assert method.state_dict().keys() == ce.state_dict().keys()
    method.enter_stage(0)
    take_step(method, clock(0, 0), optimiser(method))
    trained = copied(method)
    method.enter_stage(1)
    assert all(torch.equal(value, trained[name]) for name, value in method.helper.state_dict().items())
    assert not torch.equal(method.head.weight, trained["head.weight"])
    assert not torch.equal(method.head.weight, ce.head.weight)
    untrained = build("method=m2m")
    untrained.enter_stage(1)
    for name in ("backbone.stem.0.weight", "head.weight", "head.bias"):
        assert torch.equal(untrained.state_dict()[name], method.state_dict()[name])
    assert [stage.epochs for stage in method.stages] == [20, 20]


@pytest.mark.parametrize(("epochs", "start"), [(200, 160), (10, 8), (8, 6)])
def test_translation_begins_with_balanced_batches(build, epochs, start):
    method = build("dataset=cifar10_lt", "method=m2m", f"protocol.epochs={epochs}")
    for epoch in range(epochs):
        on = epoch >= start
        now = clock(1, epoch, epochs)
        assert (method.phase(now), method.streams(now)["train"].rule) == (
            ("translate", "power") if on else ("plain", "shuffle")
        )
        assert method.phase(clock(0, epoch, epochs)) == "plain"


# --- a step ---------------------------------------------------------------------------------


def test_a_step_leaves_labels_and_helper_and_trains_the_model(second_stage):
    method = second_stage()
    batch = random_batch(0, size=12)
    labels = batch.labels.clone()
    before = copied(method)
    step = method({"train": batch}, rows(method, batch), clock())
    step.loss.backward()
    assert torch.equal(batch.labels, labels)
    assert float(step.measures["translated"]) > 0
    after = copied(method)
    assert all(torch.equal(after[name], before[name]) for name in before if name.startswith("helper"))
    assert all(parameter.grad is None for parameter in method.helper.parameters())
    assert method.head.weight.grad is not None
    assert method.backbone.training
    assert not method.helper.training
    steps = [name for name in before if name.endswith("num_batches_tracked") and not name.startswith("helper")]
    assert all(after[name] == before[name] + 1 for name in steps)  # the training pass alone reaches batch-norm


def test_replaced_images_are_translations_of_larger_classes(second_stage):
    method = second_stage()
    batch = random_batch(0, size=12)
    images, replaced = method.replaced(batch, rows(method, batch))
    sizes = torch.tensor(COUNTS)[batch.labels]
    assert not replaced[sizes == max(COUNTS)].any()
    assert torch.equal(images[~replaced], batch.images[~replaced])
    assert ((images >= 0) & (images <= 1)).all()
    larger = {int(y): batch.images[sizes > COUNTS[int(y)]] for y in batch.labels[replaced]}
    for image, y in zip(images[replaced], batch.labels[replaced], strict=True):
        nearest = (larger[int(y)] - image).flatten(1).norm(dim=1).min()
        assert 0 < float(nearest) <= 10 * 0.1 + 0.5 + 1e-5  # ten steps, and the noise


@pytest.mark.parametrize("word", ["method.gamma=0.9", "method.beta=0.999999999"])
def test_what_is_not_accepted_stays(second_stage, monkeypatch, word):
    method = second_stage(*EAGER, word)
    batch = random_batch(0, size=12)
    monkeypatch.setattr(method, "translated", lambda start, targets, seeds: (0 * start, torch.full((12,), 0.89)))
    images, replaced = method.replaced(batch, rows(method, batch))
    assert not replaced.any()
    assert torch.equal(images, batch.images)


def test_balanced_data_generate_nothing(second_stage):
    method = second_stage()
    method.counts = torch.full((3,), 5.0)
    batch = random_batch(0, size=12)
    assert not method.replaced(batch, rows(method, batch))[1].any()
