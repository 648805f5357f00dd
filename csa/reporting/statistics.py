"""Intervals and tests of measurements over seeds; plain numbers in, plain numbers out. Two seeds have no interval."""

from __future__ import annotations

import math
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

CONFIDENCE = 0.95
LEVEL = 0.05
FEWEST_FOR_AN_INTERVAL = 3
FEWEST_FOR_A_TEST = 5
ROUNDING = 1e-9  # equal values may have a mean that differs from them in its last digit


def half_interval(values: Sequence[float]) -> float:
    """Half the width of the 95 % t interval of the mean; NaN below three values."""
    return _half(values, 1 / max(1, len(values)))


def half_prediction(values: Sequence[float], runs: int = 1) -> float:
    """Half the width of the 95 % interval in which the mean of ``runs`` further runs lies; NaN below three values.

    mean ± t sd sqrt(1/m + 1/n), m further runs after n: a perfect reproduction lies inside in 95 of 100
    cases, where the interval of the mean holds it in fewer than half.
    """
    return _half(values, 1 / runs + 1 / max(1, len(values)))


def _half(values: Sequence[float], factor: float) -> float:
    from scipy.special import stdtrit  # type: ignore[import-untyped]

    if len(values) < FEWEST_FOR_AN_INTERVAL:
        return math.nan
    quantile = float(stdtrit(len(values) - 1, (1 + CONFIDENCE) / 2))
    return quantile * float(np.std(values, ddof=1)) * math.sqrt(factor)


def paired_p(differences: Sequence[float]) -> float:
    """Two-sided p-value of the paired t test; NaN below five pairs.

    Differences that are all the same leave nothing to chance: p is 1 where they are zero, else 0.
    """
    from scipy.special import stdtr

    if len(differences) < FEWEST_FOR_A_TEST:
        return math.nan
    centre, spread = float(np.mean(differences)), float(np.std(differences, ddof=1))
    if spread <= ROUNDING:
        return 1.0 if abs(centre) <= ROUNDING else 0.0
    t = centre / (spread / math.sqrt(len(differences)))
    return 2 * float(stdtr(len(differences) - 1, -abs(t)))


def mcnemar(only_first: int, only_second: int) -> float:
    """P-value of the exact test: are the images that one alone has right as often the first's as the second's?"""
    from scipy.special import bdtr

    both = only_first + only_second
    return min(1.0, 2 * float(bdtr(min(only_first, only_second), both, 0.5))) if both else 1.0


def twice_the_median(p_values: Sequence[float]) -> float:
    """One p-value for several tests of the same question that depend on each other in an unknown way.

    Twice the median holds its level whatever the dependence (Rueschendorf 1982; Meinshausen, Meier,
    Buehlmann 2009): the seeds of a cell are tested on the same images.
    """
    return min(1.0, 2 * median(p_values))


def holm(p_values: Sequence[float]) -> list[float]:
    """Corrected for their number, step-down (Holm 1979), in the order given; NaN stays and does not count."""
    p = np.array(p_values, dtype=np.float64)
    order, tested = np.argsort(p), int(np.isfinite(p).sum())  # NaN comes last
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(1, np.maximum.accumulate((tested - np.arange(len(p))) * p[order]))
    found: list[float] = corrected.tolist()
    return found


COUNTED = {0: "no pair", 1: "one seed", 2: "two seeds"}


def verdict(pairs: int, difference: float, half: float, corrected: float) -> str:
    """Is it better, and is that sure? In a word: better, worse, not shown, one seed.

    From five pairs on the corrected p decides at the 5 % level, with three and four the interval; below nothing does.
    """
    if pairs < FEWEST_FOR_AN_INTERVAL:
        return COUNTED[pairs]
    shown = corrected < LEVEL if pairs >= FEWEST_FOR_A_TEST else abs(difference) > half + ROUNDING
    return ("better" if difference > 0 else "worse") if shown else "not shown"
