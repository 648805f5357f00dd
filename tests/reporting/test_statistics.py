"""Intervals and tests against scipy.stats, and the rules that correct p-values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from csa.reporting.statistics import Interval, holm, mcnemar, paired_t, t_interval, twice_the_median

percent = st.floats(0, 100).map(lambda value: round(value, 2))
p_values = st.lists(st.floats(0, 1), min_size=1, max_size=12)


@given(st.lists(percent, min_size=3, max_size=9))
def test_the_interval_is_that_of_scipy(values):
    low, high = t_interval(values)
    error = stats.sem(values)
    expected = stats.t.interval(0.95, len(values) - 1, np.mean(values), error) if error > 0 else (np.mean(values),) * 2
    assert (low, high) == pytest.approx(expected, abs=1e-6)


def test_two_values_have_no_interval_and_equal_ones_a_point():
    assert t_interval([1.0, 2.0]) is None
    assert t_interval([0.1, 0.1, 0.1]).holds(0.1)
    assert not t_interval([0.1, 0.1, 0.1]).holds(0.2)
    assert Interval(1.0, 2.0).holds(2.0)


@given(st.lists(st.tuples(percent, percent), min_size=5, max_size=9))
def test_the_paired_test_is_that_of_scipy(pairs):
    first, second = zip(*pairs, strict=True)
    found = paired_t(first, second)
    differences = np.subtract(first, second)
    assert found.difference == pytest.approx(differences.mean())
    if differences.std() > 1e-6:
        assert found.p == pytest.approx(stats.ttest_rel(first, second).pvalue, abs=1e-9)
        assert found.interval.holds(found.difference)


def test_four_pairs_are_not_enough_and_a_constant_difference_leaves_nothing_to_chance():
    assert paired_t([1, 2, 3, 4], [0, 0, 0, 0]) is None
    assert paired_t([1.0] * 5, [1.0] * 5).p == 1
    assert paired_t([2.0] * 5, [1.0] * 5).p == 0


@given(st.integers(0, 300), st.integers(0, 300))
def test_mcnemar_is_the_exact_binomial_test(first, second):
    expected = stats.binomtest(first, first + second).pvalue if first + second else 1.0
    assert mcnemar(first, second).p == pytest.approx(expected, abs=1e-9)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.6]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


@given(p_values)
def test_holm_never_lowers_keeps_the_order_and_is_at_most_bonferroni(values):
    corrected = holm(values)
    for value, one in zip(values, corrected, strict=True):
        assert value <= one <= min(1.0, len(values) * value) + 1e-12
    order = np.argsort(values, kind="stable")
    assert all(np.diff(np.array(corrected)[order]) >= -1e-12)


def test_twice_the_median():
    assert twice_the_median([0.01, 0.02, 0.9]) == 0.04
    assert twice_the_median([0.6]) == 1.0
