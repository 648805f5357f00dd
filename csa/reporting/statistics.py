"""Intervals and tests of paired and unpaired measurements; plain numbers in, plain numbers out."""

from __future__ import annotations

import math
from statistics import fmean, median, stdev
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

CONFIDENCE = 0.95
FEWEST_FOR_AN_INTERVAL = 3
FEWEST_PAIRS = 5
ROUNDING = 1e-9  # equal values may have a mean that differs from them in its last digit


class Interval(NamedTuple):
    low: float
    high: float

    def holds(self, value: float) -> bool:
        return self.low - ROUNDING <= value <= self.high + ROUNDING


class PairedTest(NamedTuple):
    """Mean difference of pairs, its t interval, and the two-sided p-value."""

    difference: float
    interval: Interval
    p: float


class Discordance(NamedTuple):
    """Of paired predictions: images that only the first, and only the second has right, and the exact p-value."""

    only_first: int
    only_second: int
    p: float


def t_interval(values: Sequence[float]) -> Interval | None:
    """95 % interval of the mean; None below three values."""
    if len(values) < FEWEST_FOR_AN_INTERVAL:
        return None
    return _interval(values)


def _interval(values: Sequence[float]) -> Interval:
    from scipy.special import stdtrit  # type: ignore[import-untyped]

    centre = fmean(values)
    half = float(stdtrit(len(values) - 1, (1 + CONFIDENCE) / 2)) * stdev(values) / math.sqrt(len(values))
    return Interval(centre - half, centre + half)


def paired_t(first: Sequence[float], second: Sequence[float]) -> PairedTest | None:
    """``first - second``; None below five pairs.

    Differences that are all the same leave nothing to chance: p is 1 where they are zero, else 0.
    """
    from scipy.special import stdtr

    differences = [a - b for a, b in zip(first, second, strict=True)]
    if len(differences) < FEWEST_PAIRS:
        return None
    centre, spread = fmean(differences), stdev(differences)
    interval = _interval(differences)
    if spread <= ROUNDING:
        return PairedTest(centre, interval, 1.0 if abs(centre) <= ROUNDING else 0.0)
    t = centre / (spread / math.sqrt(len(differences)))
    return PairedTest(centre, interval, 2 * float(stdtr(len(differences) - 1, -abs(t))))


def mcnemar(only_first: int, only_second: int) -> Discordance:
    """Exact test: are the images that one alone has right equally often the first's and the second's?"""
    from scipy.special import bdtr

    both = only_first + only_second
    p = min(1.0, 2 * float(bdtr(min(only_first, only_second), both, 0.5))) if both else 1.0
    return Discordance(only_first, only_second, p)


def twice_the_median(p_values: Sequence[float]) -> float:
    """One p-value for several tests of the same question that depend on each other in an unknown way.

    Twice the median holds its level whatever the dependence (Rueschendorf 1982; Meinshausen, Meier,
    Buehlmann 2009): the seeds of a cell are tested on the same images.
    """
    return min(1.0, 2 * median(p_values))


def holm(p_values: Sequence[float]) -> list[float]:
    """Corrected for their number, step-down (Holm 1979), in the order given."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    corrected = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = highest
    return corrected
