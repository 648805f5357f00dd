"""What a cell of a table holds: the published value, and what was measured of its runs."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from csa.reporting.statistics import Interval, t_interval

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from csa.reporting.published import Place, Published
    from csa.reporting.runs import Run

TOO_SMALL = "n too small"


@dataclass(frozen=True)
class View:
    """Which of the recorded numbers a table shows. head: empty for the one that stands for each run."""

    head: str = ""
    by_count: bool = False

    def value(self, run: Run, rule: str, metric: str) -> float | None:
        return run.accuracy(rule, metric, head=self.head, by_count=self.by_count)


@dataclass(frozen=True)
class Estimate:
    """Over seeds: mean and sample standard deviation, in percent; std is None of a single value."""

    mean: float
    std: float | None


@dataclass(frozen=True)
class Measured:
    """Runs of one configuration, by seed, and one metric of them, as ``view`` shows it.

    difference: mean minus published value, both under the published value's rule; outside: whether the
    published value lies outside the 95 % t interval of that mean, None below three seeds or without one.
    """

    runs: tuple[Run, ...]
    last: Estimate
    best: Estimate
    interval: Interval | None
    difference: float | None
    outside: bool | None
    reduced: str
    view: View

    @property
    def n(self) -> int:
        return len(self.runs)

    @property
    def seeds(self) -> list[int]:
        return [run.seed for run in self.runs]

    @property
    def minutes(self) -> float:
        """Of training and evaluation, mean over seeds."""
        return fmean(run.minutes for run in self.runs)

    @property
    def collapsed(self) -> int:
        return sum(bool(run.result["collapsed"]) for run in self.runs)


@dataclass(frozen=True)
class Cell:
    """published: None where the paper has no such cell or a dash in it; others: reduced runs, one entry a kind."""

    place: Place
    metric: str
    published: Published | None
    measured: Measured | None
    others: tuple[Measured, ...] = ()

    @property
    def value(self) -> float | None:
        return self.published.value if self.published else None

    def runs(self) -> Iterator[Run]:
        """All that is shown in it."""
        for measured in (self.measured, *self.others):
            yield from measured.runs if measured else ()


def measure(
    runs: Sequence[Run], metric: str, view: View, published: Published | None, reduced: str = ""
) -> Measured | None:
    """None where a run has no such accuracy: a shot group without classes."""
    rule = published.rule if published else "best_on_test"
    values = {name: [view.value(run, name, metric) for run in runs] for name in ("last", "best_on_test")}
    numbers = {name: [value for value in found if value is not None] for name, found in values.items()}
    if not runs or any(len(found) < len(runs) for found in numbers.values()):
        return None
    interval = t_interval(numbers[rule])
    value = published.value if published else None
    return Measured(
        runs=tuple(runs),
        last=_estimate(numbers["last"]),
        best=_estimate(numbers["best_on_test"]),
        interval=interval,
        difference=None if value is None else fmean(numbers[rule]) - value,
        outside=None if value is None or interval is None else not interval.holds(value),
        reduced=reduced,
        view=view,
    )


def _estimate(values: Sequence[float]) -> Estimate:
    return Estimate(fmean(values), stdev(values) if len(values) > 1 else None)
