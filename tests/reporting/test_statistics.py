"""Intervals and tests against scipy.stats and by hand, and the rules that correct p-values and give verdicts."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from csa.reporting.statistics import half_interval, half_prediction, holm, mcnemar, paired_p, twice_the_median, verdict

percent = st.floats(0, 100).map(lambda value: round(value, 2))
p_values = st.lists(st.floats(0, 1), min_size=1, max_size=12)


@given(st.lists(percent, min_size=3, max_size=9))
def test_the_interval_is_that_of_scipy(values):
    error = stats.sem(values)
    low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), error) if error > 0 else (0, 0)
    assert half_interval(values) == pytest.approx((high - low) / 2, abs=1e-6)


def test_the_prediction_interval_by_hand():
    """Of 1, 2, 3: sd 1, t(2) = 4.302653; one further run sqrt(1 + 1/3), the mean of five sqrt(1/5 + 1/3)."""
    assert half_prediction([1.0, 2.0, 3.0]) == pytest.approx(4.302653 * math.sqrt(4 / 3), rel=1e-6)
    assert half_prediction([1.0, 2.0, 3.0], 5) == pytest.approx(4.302653 * math.sqrt(8 / 15), rel=1e-6)
    assert math.isnan(half_prediction([1.0, 2.0]))
    assert math.isnan(half_interval([1.0, 2.0]))
    assert half_interval([0.1, 0.1, 0.1]) == pytest.approx(0, abs=1e-12)


@given(st.lists(percent, min_size=3, max_size=9), st.integers(1, 9))
def test_the_prediction_interval_is_scipys_quantile(values, runs):
    scale = np.std(values, ddof=1) * math.sqrt(1 / runs + 1 / len(values))
    assert half_prediction(values, runs) == pytest.approx(stats.t.ppf(0.975, len(values) - 1) * scale, abs=1e-6)
    assert half_prediction(values, runs) >= half_interval(values)


def test_a_perfect_reproduction_lies_outside_in_five_of_a_hundred_cases_and_outside_of_the_mean_in_most():
    generator = np.random.default_rng(0)
    runs = generator.normal(60, 3, (2000, 11))
    outside = [abs(row[0] - row[1:].mean()) > half_prediction(list(row[1:])) for row in runs]
    assert np.mean(outside) == pytest.approx(0.05, abs=0.015)
    assert np.mean([abs(row[0] - row[1:].mean()) > half_interval(list(row[1:])) for row in runs]) > 0.45


@given(st.lists(st.tuples(percent, percent), min_size=5, max_size=9))
def test_the_paired_test_is_that_of_scipy(pairs):
    first, second = zip(*pairs, strict=True)
    differences = np.subtract(first, second)
    if differences.std() > 1e-6:
        assert paired_p(list(differences)) == pytest.approx(stats.ttest_rel(first, second).pvalue, abs=1e-9)


def test_four_pairs_are_not_enough_and_a_constant_difference_leaves_nothing_to_chance():
    assert math.isnan(paired_p([1, 2, 3, 4]))
    assert paired_p([0.0] * 5) == 1
    assert paired_p([1.0] * 5) == 0


@pytest.mark.parametrize(
    ("numbers", "word"),
    [
        ((0, math.nan, math.nan, math.nan), "no pair"),
        ((1, 30.0, math.nan, math.nan), "one seed"),
        ((2, 30.0, math.nan, math.nan), "two seeds"),
        ((3, 2.0, 1.9, math.nan), "better"),
        ((4, -2.0, 1.9, math.nan), "worse"),
        ((3, 2.0, 2.1, math.nan), "not shown"),
        ((5, 2.0, 2.1, 0.049), "better"),
        ((10, -2.0, 1.0, 0.05), "not shown"),
    ],
)
def test_the_verdict_in_a_word(numbers, word):
    assert verdict(*numbers) == word


@given(st.integers(0, 300), st.integers(0, 300))
def test_mcnemar_is_the_exact_binomial_test(first, second):
    expected = stats.binomtest(first, first + second).pvalue if first + second else 1.0
    assert mcnemar(first, second) == pytest.approx(expected, abs=1e-9)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.6]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []
    assert holm([0.02, math.nan, 0.01])[::2] == pytest.approx([0.02, 0.02])  # what was not tested does not count


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
