from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from csa.config.schema import SamplerConfig
from csa.data.long_tail import class_counts
from csa.data.samplers import class_aware, class_probabilities, epoch_indices, shuffled_cycle

COUNTS = class_counts("exp", 5000, 100, 10)
LABELS = np.repeat(np.arange(10), COUNTS)


def generator(seed=0):
    return np.random.default_rng(seed)


def frequencies(indices, labels=LABELS):
    return np.bincount(labels[indices], minlength=10) / len(indices)


def test_shuffle_draws_every_image_once(sampler_config):
    indices = epoch_indices(sampler_config("shuffle"), LABELS, COUNTS, generator())
    assert indices.dtype == np.int64
    assert np.array_equal(np.sort(indices), np.arange(12406))
    assert not np.array_equal(indices, np.arange(12406))
    assert len(epoch_indices(sampler_config("shuffle", draws="cycle"), LABELS, COUNTS, generator())) == 50000


@pytest.mark.parametrize("q", [1, 0.5, 0.25, 0, -0.5])
def test_power_draws_classes_as_its_rule_says(sampler_config, q):
    sizes = np.array(COUNTS, dtype=float)
    expected = sizes**q / (sizes**q).sum()
    np.testing.assert_allclose(class_probabilities(COUNTS, q), expected, rtol=1e-12)
    indices = epoch_indices(sampler_config("power", q=q, draws="cycle"), LABELS, COUNTS, generator())
    assert len(indices) == 50000
    # Five standard deviations of a binomial frequency.
    assert (np.abs(frequencies(indices) - expected) < 5 * np.sqrt(expected * (1 - expected) / 50000)).all()
    assert set(indices[LABELS[indices] == 9]) <= set(range(12356, 12406))


def test_power_draws_the_images_of_a_class_uniformly(sampler_config):
    indices = epoch_indices(sampler_config("power", q=0, draws="cycle"), LABELS, COUNTS, generator())
    tail = np.bincount(indices[LABELS[indices] == 9] - 12356, minlength=50)
    assert len(tail) == 50
    assert (np.abs(tail - tail.mean()) < 5 * np.sqrt(tail.mean())).all()


def test_reversed_probabilities_of_cifar10(sampler_config):
    published = (0.004024, 0.006713, 0.011202, 0.018680, 0.031191, 0.051985, 0.086717, 0.144736, 0.242389, 0.402365)
    np.testing.assert_allclose(class_probabilities(COUNTS, -1), published, atol=5e-7)
    indices = epoch_indices(sampler_config("reversed"), LABELS, COUNTS, generator())
    assert len(indices) == 12406
    expected = np.array(published)
    assert (np.abs(frequencies(indices) - expected) < 5 * np.sqrt(expected * (1 - expected) / 12406)).all()


def test_extreme_exponents_stay_finite():
    assert class_probabilities((5000, 50), 400).tolist() == [1, 0]
    assert class_probabilities((5000, 50), -400).tolist() == [0, 1]
    assert class_probabilities((5000, 0, 50), 0).tolist() == [0.5, 0, 0.5]


def test_class_aware_epoch_of_mnist(sampler_config):
    counts = (5923, 3596, 2156, 1292, 774, 464, 278, 166, 100, 60)
    labels = np.repeat(np.arange(10), counts)
    config = sampler_config("class_aware", images_per_visit=4, draws="cycle")
    indices = epoch_indices(config, labels, counts, generator())
    assert indices.shape == (59230,)
    drawn = np.bincount(labels[indices], minlength=10)
    # 59,230 = 1480 whole cycles of 40 images and 30 of the next.
    assert drawn.min() >= 5920
    assert drawn.max() <= 5924
    head = np.bincount(indices[labels[indices] == 0], minlength=5923)
    assert head.max() <= 2
    assert head.sum() - (head > 0).sum() <= 1  # nothing repeats before every image was drawn
    uniform = sampler_config("class_aware", images_per_visit=4, draws="images")
    assert len(epoch_indices(uniform, labels, counts, generator())) == 14809


@given(
    counts=st.lists(st.integers(1, 12), min_size=1, max_size=6),
    visit=st.integers(1, 6),
    length=st.integers(1, 200),
    seed=st.integers(0, 9),
)
def test_class_aware_walks_whole_cycles(counts, visit, length, seed):
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(len(counts)), counts))
    indices = class_aware(labels, counts, visit, length, generator(seed))
    assert indices.shape == (length,)
    visits = [labels[indices[start : start + visit]] for start in range(0, length, visit)]
    assert all(len(set(run)) == 1 for run in visits)  # aligned runs share a label
    for start in range(0, len(visits) - len(counts) + 1, len(counts)):
        classes = [run[0] for run in visits[start : start + len(counts)]]
        assert sorted(classes) == list(range(len(counts)))  # each cycle visits every class once
    for k, size in enumerate(counts):
        own = indices[labels[indices] == k]
        for start in range(0, len(own) - size + 1, size):
            assert len(set(own[start : start + size])) == size  # each of the class's cycles has every image once


def test_first_cycle_holds_each_class_four_times(sampler_config):
    indices = epoch_indices(sampler_config("class_aware", images_per_visit=4), LABELS, COUNTS, generator())
    assert np.bincount(LABELS[indices[:40]]).tolist() == [4] * 10
    order = LABELS[indices].reshape(-1)[:12400:4].reshape(-1, 10)
    assert len({tuple(cycle) for cycle in order}) > 100  # reshuffled, not the same walk again


def test_classes_without_images_are_never_drawn(sampler_config):
    labels, counts = np.repeat([0, 2], 5), (5, 0, 5)
    for config in (
        sampler_config("class_aware", images_per_visit=4),
        sampler_config("power", q=0),
        sampler_config("reversed"),
    ):
        indices = epoch_indices(config, labels, counts, generator())
        assert len(indices) == 10
        assert set(labels[indices]) == {0, 2}


def test_labels_need_not_be_sorted(sampler_config):
    labels = generator(1).permutation(LABELS)
    indices = epoch_indices(sampler_config("class_aware", images_per_visit=4), labels, COUNTS, generator())
    assert np.bincount(labels[indices[:40]]).tolist() == [4] * 10


def test_an_epoch_is_its_generator(sampler_config):
    config = sampler_config("class_aware", images_per_visit=4)
    first, again, other = (epoch_indices(config, LABELS, COUNTS, generator(seed)) for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_sampler_that_cannot_draw_says_so(sampler_config):
    for config in (sampler_config("none"), sampler_config("power"), sampler_config("class_aware")):
        with pytest.raises(ValueError, match=config.rule):
            epoch_indices(config, LABELS, COUNTS, generator())


def test_shuffled_cycle_reshuffles_each_round():
    rounds = shuffled_cycle(np.arange(20), 60, generator()).reshape(3, 20)
    assert all(sorted(row) == list(range(20)) for row in rounds.tolist())
    assert len({tuple(row) for row in rounds.tolist()}) == 3


def test_every_sampler_of_the_command_line_draws():
    from pathlib import Path

    from omegaconf import OmegaConf

    files = sorted((Path(__file__).parents[2] / "conf" / "sampler").glob("*.yaml"))
    names = {file.stem for file in files}
    assert names == {"uniform", "class_balanced", "square_root", "power", "class_aware", "reversed", "none"}
    for file in files:
        tree = OmegaConf.create({"protocol": {"balanced_epoch": "cycle"}, "sampler": OmegaConf.load(file)})
        config = SamplerConfig(**OmegaConf.to_container(tree.sampler, resolve=True))
        if config.rule != "none":
            length = 50000 if file.stem in {"class_balanced", "class_aware"} else 12406
            assert len(epoch_indices(config, LABELS, COUNTS, generator())) == length
