"""Is one method better than another here? Paired over seeds, and over the predictions on the same test images."""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from csa.reporting.grouping import same_cells
from csa.reporting.statistics import FEWEST_PAIRS, Discordance, PairedTest, holm, mcnemar, paired_t, twice_the_median

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from csa.reporting.cells import View
    from csa.reporting.runs import Run
    from csa.reporting.tables import Table

LEVEL = 0.05


@dataclass(frozen=True)
class Comparison:
    """first - second, test accuracy of all classes at the last epoch, in percentage points.

    seeds: those that both have, on the same data. test: None below five. predictions: over all seeds,
    its p one value for the tests of the single seeds. The corrected ones are over the table.
    """

    where: str
    first: str
    second: str
    seeds: tuple[int, ...]
    means: tuple[float, float] | None
    test: PairedTest | None
    predictions: Discordance | None
    corrected: float | None = None
    predictions_corrected: float | None = None

    @property
    def verdict(self) -> str:
        """Of the test over seeds; the predictions of the same networks say nothing of other seeds."""
        if self.test is None:
            return f"not enough seeds ({len(self.seeds)} of {FEWEST_PAIRS})"
        assert self.corrected is not None
        if self.corrected >= LEVEL:
            return "no difference shown"
        return f"{self.first if self.test.difference > 0 else self.second} is better"

    def as_dict(self) -> dict[str, Any]:
        test, predictions = self.test, self.predictions
        values = (
            *(self.where, self.first, self.second, len(self.seeds), " ".join(map(str, self.seeds))),
            *(self.means or (None, None)),
            *((test.difference, *test.interval, test.p) if test else (None,) * 4),
            self.corrected,
            *(predictions or (None,) * 3),
            *(self.predictions_corrected, self.verdict),
        )
        return dict(zip(COLUMNS, values, strict=True))


COLUMNS = (
    *("where", "first", "second", "n", "seeds", "first_mean", "second_mean"),
    *("difference", "interval_low", "interval_high", "p", "p_corrected"),
    *("only_first_right", "only_second_right", "p_predictions", "p_predictions_corrected", "verdict"),
)


@dataclass(frozen=True)
class Comparisons:
    """number: of the table whose cells are compared, or empty."""

    number: str
    title: str
    rows: tuple[Comparison, ...]
    view: View

    @staticmethod
    def columns() -> list[str]:
        return list(COLUMNS)


def compare_table(table: Table) -> Comparisons:
    """The first and the last row of a table with every other, in each column of ``all`` where both have runs."""
    rows: list[Comparison] = []
    for where, runs in _columns(table):
        names = list(runs)
        ends = {table_name for table_name in (_label(table, 0), _label(table, -1)) if table_name in runs}
        pairs = [(b, a) for place, a in enumerate(names) for b in names[place + 1 :] if ends & {a, b}]
        rows += [compare(where, first, second, runs[first], runs[second], table.view) for first, second in pairs]
    return Comparisons(
        table.number, f"Comparisons of the methods of Table {table.number}", _corrected(rows), table.view
    )


def compare_methods(runs: Sequence[Run], names: Sequence[str], view: View) -> Comparisons:
    """Each named method with each that is named after it, in every cell where both have runs.

    A cell is data, backbone and protocol. A method with several settings in a cell takes part with each.
    """
    pairs = [(first, second) for place, first in enumerate(names) for second in names[place + 1 :]]
    rows = [
        compare(where, ours, theirs, variants[ours], variants[theirs], view)
        for where, variants in same_cells(runs)
        for pair in pairs
        for ours in variants
        for theirs in variants
        if (variants[ours][0].method, variants[theirs][0].method) == pair
    ]
    return Comparisons("", f"Comparison of {' and '.join(names)}", _corrected(rows), view)


def compare(where: str, first: str, second: str, ours: Sequence[Run], theirs: Sequence[Run], view: View) -> Comparison:
    pairs = paired(ours, theirs)
    values = [(view.value(a, "last", "all"), view.value(b, "last", "all")) for a, b in pairs]
    known = [(a, b) for a, b in values if a is not None and b is not None]
    left, right = [a for a, _ in known], [b for _, b in known]
    return Comparison(
        where,
        first,
        second,
        tuple(a.seed for a, _ in pairs),
        (fmean(left), fmean(right)) if known else None,
        paired_t(left, right),
        _predictions(pairs, view) if len(pairs) >= FEWEST_PAIRS else None,
    )


def paired(ours: Sequence[Run], theirs: Sequence[Run]) -> list[tuple[Run, Run]]:
    """Runs of the same seed on the same data."""
    there = {(run.seed, run.split): run for run in theirs}
    return [(run, there[run.seed, run.split]) for run in ours if (run.seed, run.split) in there]


def _predictions(pairs: Sequence[tuple[Run, Run]], view: View) -> Discordance | None:
    found = [discordance(a, b, view) for a, b in pairs]
    return Discordance(
        sum(one.only_first for one in found),
        sum(one.only_second for one in found),
        twice_the_median([one.p for one in found]),
    )


def discordance(first: Run, second: Run, view: View) -> Discordance:
    """Of two runs on one test set: McNemar's test on their predictions."""
    labels = first.evidence.labels
    ours = first.evidence.predictions(first.head(view.head)) == labels
    theirs = second.evidence.predictions(second.head(view.head)) == labels
    return mcnemar(int(np.sum(ours & ~theirs)), int(np.sum(theirs & ~ours)))


def _columns(table: Table) -> Iterator[tuple[str, dict[str, Sequence[Run]]]]:
    """Each place of the table, and the runs of its rows; in a turned table the columns are what varies."""
    if table.turned:
        cells = zip(table.columns, table.rows[0].cells, strict=True)
        yield (
            table.columns[0].group,
            {column.heading: cell.measured.runs for column, cell in cells if cell and cell.measured},
        )
        return
    for place, column in enumerate(table.columns):
        if column.metric != "all":
            continue
        heading = column.group if column.heading == "All" else f"{column.group} {column.heading}"
        found = {row.label: row.cells[place] for row in table.rows}
        yield heading, {label: cell.measured.runs for label, cell in found.items() if cell and cell.measured}


def _label(table: Table, place: int) -> str:
    if table.turned:
        return table.columns[place].heading
    return [row.label for row in table.rows if row.in_paper][place]


def _corrected(rows: Sequence[Comparison]) -> tuple[Comparison, ...]:
    """Both families of p-values after Holm, each over the table."""
    seeds = iter(holm([row.test.p for row in rows if row.test]))
    images = iter(holm([row.predictions.p for row in rows if row.predictions]))
    return tuple(
        replace(
            row,
            corrected=next(seeds) if row.test else None,
            predictions_corrected=next(images) if row.predictions else None,
        )
        for row in rows
    )
