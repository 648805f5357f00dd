from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from csa.methods.losses import class_weights, ldam_margins, log_prior

CIFAR10 = (5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50)
CIFAR100 = tuple(int(500 * 0.01 ** (k / 99)) for k in range(100))


@pytest.mark.parametrize(
    ("beta", "expected"),
    [
        (0.9, [0.848568, 0.848591, 1.302841]),
        (0.99, [0.230147, 0.363011, 2.406842]),
        (0.999, [0.042160, 0.280000, 2.677839]),
        (0.9999, [0.028362, 0.271255, 2.700382]),
        (0, [1.0, 1.0, 1.0]),
    ],
)
def test_effective_numbers(beta, expected):
    assert class_weights("effective_number", (1000, 100, 10), beta).tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("counts", "head", "tail"), [(CIFAR10, 0.050611, 3.992724), (CIFAR100, 0.044876, 4.378313)])
def test_effective_numbers_of_cifar(counts, head, tail):
    weights = class_weights("effective_number", counts, 0.9999)
    assert (float(weights[0]), float(weights[-1])) == pytest.approx((head, tail), abs=1e-6)
    assert float(weights.mean()) == pytest.approx(1)


def test_inverse_frequency():
    weights = class_weights("inverse_frequency", (10000, 625, 16), 0.5).tolist()
    assert weights == pytest.approx([0.004673, 0.074766, 2.920561], abs=1e-6)


def test_ldam_margins():
    assert ldam_margins((10000, 625, 16), 0.5).tolist() == pytest.approx([0.1, 0.2, 0.5])
    published = "0.158114 0.179697 0.204238 0.232091 0.263829 0.299768 0.340675 0.387221 0.440497 0.5"
    assert ldam_margins(CIFAR10, 0.5).tolist() == pytest.approx(list(map(float, published.split())), abs=1e-6)


def test_log_prior():
    assert log_prior((90, 9, 1)).exp().tolist() == pytest.approx([0.9, 0.09, 0.01])


@given(
    st.lists(st.integers(0, 10**6), min_size=2, max_size=50),
    st.floats(0, 1 - 1e-9),
    st.sampled_from(["effective_number", "inverse_frequency"]),
)
def test_everything_stays_finite_and_rarer_classes_weigh_no_less(counts, beta, rule):
    weights = class_weights(rule, counts, beta)
    assert weights.isfinite().all()
    assert float(weights.sum()) == pytest.approx(len(counts), rel=1e-4)
    ascending = torch.tensor(counts).argsort(descending=True)
    assert (weights[ascending].diff() >= -1e-5 * weights.max()).all()
    assert log_prior(counts).isfinite().all()
    assert float(ldam_margins(counts, 0.5).max()) == pytest.approx(0.5)
