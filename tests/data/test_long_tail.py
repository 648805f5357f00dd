from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from csa.data.long_tail import (
    class_counts,
    count_faults,
    group_faults,
    groups_by_count,
    groups_by_rank,
    select,
    set_aside,
    wanted_counts,
)

CIFAR10, CIFAR100 = (5000, 10), (500, 100)


@pytest.mark.parametrize(
    ("data", "ratio", "total"),
    [
        (CIFAR10, 200, 11203),
        (CIFAR10, 100, 12406),
        (CIFAR10, 50, 13996),
        (CIFAR10, 20, 17023),
        (CIFAR10, 10, 20431),
        (CIFAR100, 200, 9502),
        (CIFAR100, 100, 10847),
        (CIFAR100, 50, 12608),
        (CIFAR100, 20, 15907),
        (CIFAR100, 10, 19573),
    ],
)
def test_exponential_totals(data, ratio, total):
    counts = class_counts("exp", data[0], ratio, data[1])
    assert sum(counts) == total
    assert counts[0] == data[0]
    assert counts[-1] == data[0] // ratio


def test_exponential_counts_of_cifar10():
    assert class_counts("exp", 5000, 100, 10) == (5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50)
    assert class_counts("exp", 5000, 50, 10) == (5000, 3237, 2096, 1357, 878, 568, 368, 238, 154, 100)
    assert class_counts("exp", 5000, 10, 10) == (5000, 3871, 2997, 2320, 1796, 1391, 1077, 834, 645, 500)


@pytest.mark.parametrize(
    ("ratio", "first", "middle", "from_class", "last"),
    [
        (100, (500, 477, 455, 434, 415, 396, 378, 361), (98, 93, 89), 35, (6, 6, 5, 5, 5, 5)),
        (100, (500,), (19, 18, 17), 70, (5,)),
        (50, (500, 480, 462, 444, 426, 410, 394, 379), (125, 120, 115), 35, (12, 11, 11, 10, 10, 10)),
        (50, (500,), (31, 30, 29), 70, (10,)),
        (10, (500, 488, 477, 466, 455, 445, 434, 424), (221, 216, 211), 35, (56, 54, 53, 52, 51, 50)),
        (10, (500,), (98, 95, 93), 70, (50,)),
    ],
)
def test_exponential_counts_of_cifar100(ratio, first, middle, from_class, last):
    counts = class_counts("exp", 500, ratio, 100)
    assert counts[: len(first)] == first
    assert counts[from_class : from_class + 3] == middle
    assert counts[-len(last) :] == last


def test_other_profiles():
    assert class_counts("step", 500, 100, 5) == (500, 500, 5, 5, 5)
    assert class_counts("step", 500, 100, 4) == (500, 500, 5, 5)
    assert class_counts("balanced", 7, 100, 3) == (7, 7, 7)
    with pytest.raises(ValueError, match="linear"):
        class_counts("linear", 7, 100, 3)


@given(st.integers(1, 6000), st.floats(1, 500), st.integers(2, 200))
def test_exponential_counts_fall_from_the_largest_to_the_ratio(largest, ratio, num_classes):
    counts = class_counts("exp", largest, ratio, num_classes)
    assert len(counts) == num_classes
    assert counts[0] == largest
    assert list(counts) == sorted(counts, reverse=True)
    assert counts[-1] in {int(largest / ratio), int(largest / ratio) - 1, int(largest / ratio) + 1}


@pytest.mark.parametrize(
    ("data", "ratio", "total", "checksum"),
    [
        (CIFAR10, 100, 30953231, "8a54f5b6fa972295"),
        (CIFAR10, 50, 34963174, "7bb90363b243a944"),
        (CIFAR10, 10, 51242293, "2b3a8656bec514c6"),
        (CIFAR100, 100, 2709482, "f123ec136d44ab1b"),
        (CIFAR100, 50, 3143133, "1bc82de2629e5cbd"),
        (CIFAR100, 10, 4903396, "5906ba7310b91b5e"),
    ],
)
def test_selection_rule_is_the_published_one(data, ratio, total, checksum):
    """Ranks within a class do not depend on where the images come from: any order of labels will do."""
    size, num_classes = data
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(num_classes), size))
    rank = np.empty(len(labels), dtype="<i8")
    for k in range(num_classes):
        rank[labels == k] = np.arange(size)
    counts = class_counts("exp", size, ratio, num_classes)
    kept, held = select(labels, counts, seed=0)
    ranks = rank[kept]
    assert ranks.sum() == total
    assert hashlib.sha256(ranks.tobytes()).hexdigest()[:16] == checksum
    assert not len(held)
    starts = {10: ([398, 3833, 4836, 4572], [597, 332, 521]), 100: ([90, 254, 283, 445], [277, 307, 436])}[num_classes]
    assert ranks[:4].tolist() == starts[0]
    assert ranks[counts[0] : counts[0] + 3].tolist() == starts[1]


@given(st.integers(0, 2**64), st.integers(0, 2**64))
def test_any_seed_chooses_and_longer_ones_by_all_of_their_words(seed, other):
    labels = np.repeat([0, 1], 300)
    assert np.array_equal(select(labels, (99, 99), seed)[0], select(labels, (99, 99), other)[0]) == (seed == other)


def test_selection_leaves_the_global_generator_alone():
    np.random.seed(5)
    expected = np.random.RandomState(5).random()
    select(np.repeat([0, 1], 10), (5, 2), seed=0)
    assert np.random.random() == expected


@given(st.lists(st.integers(1, 30), min_size=2, max_size=6), st.integers(0, 5), st.data())
def test_subsets_are_class_sorted_nested_and_apart_from_the_holdout(sizes, holdout, data):
    labels = np.random.default_rng(2).permutation(np.repeat(np.arange(len(sizes)), sizes))
    larger = [data.draw(st.integers(1, size)) for size in sizes]
    smaller = [data.draw(st.integers(1, size)) for size in larger]
    kept, held = select(labels, larger, seed=3, holdout=holdout)
    assert labels[kept].tolist() == np.repeat(np.arange(len(sizes)), larger).tolist()
    assert len(set(kept)) == len(kept)
    assert not set(kept) & set(held)
    assert set(select(labels, smaller, seed=3)[0]) <= set(kept)
    assert np.bincount(labels[held], minlength=len(sizes)).tolist() == [
        min(holdout, size - count) for size, count in zip(sizes, larger, strict=True)
    ]


@given(st.lists(st.integers(1, 30), min_size=2, max_size=6), st.floats(0.01, 0.9), st.integers(0, 5))
def test_a_share_of_every_class_is_set_aside_but_its_last_image(sizes, share, seed):
    labels = np.random.default_rng(2).permutation(np.repeat(np.arange(len(sizes)), sizes))
    every, _ = select(labels, sizes, seed)
    kept, held = select(labels, sizes, seed, fraction=share)
    aside = np.bincount(labels[held], minlength=len(sizes))
    assert sorted([*kept, *held]) == sorted(every)
    assert (np.diff(labels[kept]) >= 0).all()
    for size, count in zip(sizes, aside.tolist(), strict=True):
        assert count <= size - 1
        assert count == size - 1 or share * size - 1e-6 <= count < share * size + 1
    assert set(select(labels, sizes, seed, fraction=share / 2)[1]) <= set(held)
    assert set_aside((10, 30, 300, 1, 2), 0.1) == (1, 3, 30, 0, 1)


def test_mnist_is_capped_by_what_a_class_has(dataset_config):
    sizes = (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949)
    config = dataset_config("mnist_lt")
    assert wanted_counts(config, sizes) == (5923, 3596, 2156, 1292, 774, 464, 278, 166, 100, 60)
    assert not count_faults(config, sizes)
    (fault,) = count_faults(dataset_config("mnist_lt", cap=False), sizes)
    assert fault.key == "dataset.max_per_class"
    assert "class 0 has 5923 images and needs 6000" in str(fault)


def test_null_stands_for_the_smallest_class(dataset_config):
    config = dataset_config("npz", profile="exp", imbalance_ratio=4, path="x.npz")
    assert wanted_counts(config, (30, 8, 20)) == (8, 4, 2)
    assert wanted_counts(dataset_config("npz", path="x.npz"), (30, 8, 20)) == (30, 8, 20)


def test_a_tail_too_thick_is_the_fault_of_the_ratio(dataset_config):
    sizes = class_counts("exp", 5000, 10, 10)
    assert not count_faults(dataset_config("cifar10_lt", imbalance_ratio=10), sizes)
    (fault,) = count_faults(dataset_config("cifar10_lt", imbalance_ratio=2), sizes)
    assert (fault.key, fault.value) == ("dataset.imbalance_ratio", 2)
    assert "class 1 has 3871 images and needs 4629" in str(fault)
    assert "6 more" in str(fault)


def test_a_ratio_that_empties_a_class(dataset_config):
    (fault,) = count_faults(dataset_config("cifar100_lt", imbalance_ratio=600), (500,) * 100)
    assert fault.key == "dataset.imbalance_ratio"
    assert "leaves no image to class 97, 98, 99" in str(fault)
    assert fault.allowed == "1 to 500"


def test_holdout_comes_from_unused_images(dataset_config):
    sizes = (120, 110, 100)
    enough = dataset_config("npz", path="x", profile="exp", imbalance_ratio=10, max_per_class=100, holdout=20)
    assert not count_faults(enough, sizes)
    (fault,) = count_faults(dataset_config("npz", path="x", profile="balanced", holdout=15), sizes)
    assert (fault.key, fault.value) == ("dataset.holdout", 15)
    assert "class 1 leaves 10 of 110" in str(fault)
    assert "at most 0" in fault.allowed
    (natural,) = count_faults(dataset_config("npz", path="x", holdout=1), sizes)
    assert natural.key == "dataset.holdout"


def test_groups_by_rank():
    counts = class_counts("exp", 500, 100, 100)
    groups = groups_by_rank(counts, [36, 35, 29])
    assert groups.many == tuple(range(36))
    assert groups.medium == tuple(range(36, 71))
    assert groups.few == tuple(range(71, 100))
    thirds = groups_by_rank((5, 9, 9, 1), None)
    assert (thirds.many, thirds.medium, thirds.few) == ((1,), (0, 2), (3,))
    with pytest.raises(ValueError, match="do not make 4"):
        groups_by_rank((5, 9, 9, 1), [1, 1, 1])


@pytest.mark.parametrize(("ratio", "sizes"), [(100, (35, 35, 30)), (50, (41, 41, 18)), (10, (69, 31, 0))])
def test_groups_by_count_of_cifar100(ratio, sizes):
    groups = groups_by_count(class_counts("exp", 500, ratio, 100))
    assert (len(groups.many), len(groups.medium), len(groups.few)) == sizes


def test_groups_by_count_at_their_boundaries():
    groups = groups_by_count((101, 100, 20, 19))
    assert (groups.many, groups.medium, groups.few) == ((0,), (1, 2), (3,))


def test_groups_must_make_up_the_classes(dataset_config):
    assert not group_faults(dataset_config("cifar10_lt"), 10)
    assert not group_faults(dataset_config("cifar10_lt", groups=None), 10)
    for wrong in ([3, 4], [3, 4, 4], [-1, 8, 3]):
        (fault,) = group_faults(dataset_config("cifar10_lt", groups=wrong), 10)
        assert fault.key == "dataset.groups"
