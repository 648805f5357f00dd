"""Totals and groups of METHOD and BASELINES on the real data sets."""

from __future__ import annotations

import numpy as np
import pytest

from csa.data.dataset import inspect, load_split

pytestmark = pytest.mark.data

MNIST = {
    100: (5923, 3596, 2156, 1292, 774, 464, 278, 166, 100, 60),
    50: (5923, 3884, 2515, 1628, 1054, 682, 442, 286, 185, 120),
    10: (5923, 4645, 3596, 2784, 2156, 1669, 1292, 1000, 774, 600),
}


@pytest.mark.parametrize(
    ("name", "ratio", "total"),
    [
        ("mnist_lt", 100, 14809),
        ("mnist_lt", 50, 16719),
        ("mnist_lt", 10, 24439),
        ("fashion_lt", 100, 14886),
        ("fashion_lt", 50, 16796),
        ("fashion_lt", 10, 24516),
        ("cmnist_lt", 100, 14809),
        ("cifar10_lt", 100, 12406),
        ("cifar10_lt", 50, 13996),
        ("cifar10_lt", 10, 20431),
        ("cifar100_lt", 100, 10847),
        ("cifar100_lt", 50, 12608),
        ("cifar100_lt", 10, 19573),
    ],
)
def test_totals(dataset_config, real_data, name, ratio, total):
    config = dataset_config(name, imbalance_ratio=ratio)
    assert not inspect(config, real_data, download=False)
    split = load_split(config, real_data, download=False)
    assert sum(split.counts) == total == len(split.train_labels)
    assert len(split.test_labels) == 10000
    assert len(set(np.bincount(split.test_labels))) == 1 or name in {"mnist_lt", "cmnist_lt"}
    if name == "mnist_lt":
        assert split.counts == MNIST[ratio]
    sizes = {"mnist_lt": (3, 4, 3), "cifar100_lt": (36, 35, 29)}.get(name, (3, 4, 3))
    assert tuple(map(len, (split.by_rank.many, split.by_rank.medium, split.by_rank.few))) == sizes
    if name == "cifar100_lt":
        by_count = tuple(map(len, (split.by_count.many, split.by_count.medium, split.by_count.few)))
        assert by_count == {100: (35, 35, 30), 50: (41, 41, 18), 10: (69, 31, 0)}[ratio]


def test_the_published_normalisation_is_that_of_the_pixels(dataset_config, real_data):
    split = load_split(dataset_config("cifar10_lt", imbalance_ratio=10, mean=None, std=None), real_data, False)
    np.testing.assert_allclose(split.mean, (0.4914, 0.4822, 0.4465), atol=0.03)  # of the subset, not of the whole set


def test_too_few_images_in_a_thinned_archive(dataset_config, real_data):
    (fault,) = inspect(dataset_config("cifar10_lt", imbalance_ratio=5), real_data, download=False)
    assert fault.key == "dataset.imbalance_ratio"
