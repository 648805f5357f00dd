"""FSA against BASELINES.md 4.17."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import copied, optimiser, random_batch

from csa.data.batch import Batch
from csa.data.long_tail import class_counts
from csa.methods.fsa import Fsa, confusing_classes, head_classes, mixed_feature, picked, scaled_map
from csa.methods.method import Clock

TUNING = Clock(1, 0, 10)


@pytest.mark.parametrize(
    ("largest", "classes", "ratio", "h"),
    [
        (5000, 10, 100, 5),
        (5000, 10, 50, 6),
        (5000, 10, 10, 7),
        (500, 100, 100, 48),
        (500, 100, 50, 54),
        (500, 100, 10, 72),
    ],
)
def test_the_head_holds_nine_tenths(largest, classes, ratio, h):
    assert head_classes(class_counts("exp", largest, ratio, classes), 0.9) == list(range(h))


def test_confusing_classes_are_the_most_probable_others():
    sums = torch.tensor([[9.0, 1, 5, 3], [7, 8, 2, 1], [0, 0, 9, 1], [4, 3, 2, 0]])
    assert confusing_classes(sums, 2).tolist() == [[2, 3], [0, 2], [3, 0], [0, 1]]


def test_maps_are_scaled_and_a_flat_one_divides_by_nothing():
    scaled = scaled_map(torch.tensor([[-1.0, 0, 3], [2, 2, 2]]))
    assert scaled.tolist() == [[0, 0.25, 1], [0, 0, 0]]


@given(st.integers(0, 2**31), st.floats(0, 1))
def test_features_are_means_of_what_is_wanted(seed, gamma):
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.rand(2, 5, 3, generator=generator) + 0.1
    vectors[0, 2] = 0
    wanted = torch.tensor([[True, False, True, False, True], [False] * 5])
    drawn = picked(vectors, wanted, torch.rand(2, 7, generator=generator))
    for row, places in ((0, (0, 4)), (1, range(5))):  # a zero vector is never drawn; where nothing is wanted, any is
        allowed = {tuple(vectors[row, place].tolist()) for place in places}
        assert {tuple(vector) for vector in drawn[row].tolist()} <= allowed
    generic = torch.full_like(drawn, 9.0)
    mixed = mixed_feature(drawn, generic, torch.tensor([gamma, 1.0]))
    own = round(gamma * 7)
    torch.testing.assert_close(mixed[0], (drawn[0, :own].sum(0) + 9.0 * (7 - own)) / 7)
    torch.testing.assert_close(mixed[1], drawn[1].mean(0))


@pytest.fixture
def fsa(build):
    """Of three classes with 8, 4 and 2 images; groups of a tail image, two confusing and three head images."""
    method = build("method=fsa", "method.confusing=2", "protocol.batch_size=14", "method.head_share=0.5")
    assert isinstance(method, Fsa)
    method.enter_stage(1)
    method.confusing.copy_(torch.tensor([[1, 2], [0, 2], [0, 1]]))
    method.train_stage(1)
    return method


def test_a_batch_is_half_tail(fsa):
    assert (fsa.head_classes.tolist(), fsa.tail_classes.tolist(), fsa.group) == ([0], [1, 2], 6)
    sampler = fsa.streams(TUNING)["train"]
    assert len(sampler.classes) == 14  # 14 images are one step of 14
    classes = np.array(sampler.classes)
    for group in (classes[:6], classes[6:12]):
        assert group[0] in (1, 2)
        assert set(group[1:3]) <= set(fsa.confusing[group[0]].tolist())
        assert set(group[3:]) == {0}
    assert classes[12:].tolist() == [0, 0]
    assert sampler == fsa.streams(TUNING)["train"]
    assert sampler != fsa.streams(replace(TUNING, epoch=1))["train"]


def test_the_paper_s_batch(build):
    """N_t = 16, N_a = 3: 64 tail-labelled and 64 head images."""
    method = build("method=fsa", "method.confusing=2", "protocol.batch_size=128", "method.head_share=0.5")
    method.number, method.group = 3, 8
    method.confusing = torch.tensor([[1, 2, 1], [0, 2, 0], [0, 1, 1]])
    classes = torch.tensor(method.classes_of_step(method.confusing.numpy(), np.random.default_rng(0)))
    images = torch.rand(128, 1, 8, 8)
    draws = {"gamma": torch.rand(48), "vectors": torch.rand(2, 48, method.positions)}
    with torch.no_grad():
        _, labels = method.eval().mixed_features(Batch(images, classes), draws)
    assert int((labels > 0).sum()) == 64
    assert int((labels == 0).sum()) == 64
    of_groups = labels.view(16, 8)
    assert torch.equal(of_groups[:, :4], of_groups[:, :1].expand(-1, 4))  # each group's own tail class


def test_with_gamma_1_a_mixed_feature_is_of_specific_places_only(fsa):
    batch = random_batch(0, 12)
    batch = Batch(batch.images, torch.tensor([2, 0, 1, 0, 0, 0, 1, 0, 2, 0, 0, 0]))
    draws = {"gamma": torch.ones(4), "vectors": torch.rand(2, 4, fsa.positions)}
    fsa.backbone.normalize.std.fill_(0.05)
    with torch.no_grad():
        feature, labels = fsa.mixed_features(batch, draws)
        feature_map = fsa.backbone.feature_map(batch.images)
    assert labels.tolist() == [2, 2, 2, 0, 0, 0, 1, 1, 1, 0, 0, 0]
    vectors = feature_map.flatten(2).transpose(1, 2)
    for tail, mixed in ((0, (1, 2)), (6, (7, 8))):
        response = vectors[tail] @ fsa.head.weight[batch.labels[tail]]
        scaled = (response - response.min()) / (response.max() - response.min())
        specific = vectors[tail][(scaled > 0.8) & (vectors[tail].abs().sum(1) > 0)]
        for place in mixed:
            span = torch.linalg.lstsq(specific.T, feature[place][:, None]).solution
            torch.testing.assert_close(specific.T @ span, feature[place][:, None], atol=1e-3, rtol=1e-3)
    plain = fsa.backbone.embed(feature_map)
    unmixed = [0, 3, 4, 5, 6, 9, 10, 11]
    torch.testing.assert_close(feature[unmixed], plain[unmixed])


def test_the_backbone_is_frozen_with_its_statistics(fsa):
    before = copied(fsa)
    rows = fsa.draws(TUNING, [14], torch.Generator())
    classes = torch.tensor(fsa.streams(TUNING)["train"].classes)
    update = optimiser(fsa, stage=1)
    fsa(
        {"train": Batch(random_batch(1, 14).images, classes)}, {k: v[0] for k, v in rows.items()}, TUNING
    ).loss.backward()
    update.step()
    moved = {key for key, value in copied(fsa).items() if not torch.equal(before[key], value)}
    assert moved == {"head.weight", "head.bias"}


def test_scores_are_gathered_from_the_training_set(fsa):
    class Images:
        def training_batches(self, batch_size):
            yield Batch(random_batch(3, 30).images, torch.arange(30) % 3)

    with torch.no_grad():
        fsa.eval().prepare(1, Images())
        images, labels = next(Images().training_batches(0))
        scores = fsa.outputs(images).softmax(1)
    for k in range(3):
        means = scores[labels == k].mean(0)
        others = [j for j in range(3) if j != k]
        assert fsa.confusing[k].tolist() == sorted(others, key=lambda j: -float(means[j]))


def test_stage_one_is_a_finished_ce(build):
    ce, fsa = build("method=ce"), build("method=fsa")
    assert dict(fsa.stages[0].shared) == dict(ce.stages[0].shared)
    assert set(fsa.state_dict()) == set(ce.state_dict())
