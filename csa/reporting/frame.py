"""Tables as data: one line a cell, every number unrounded enough to compute with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from csa.reporting.escaping import plain

if TYPE_CHECKING:
    from collections.abc import Iterable

    from csa.reporting.cells import Cell, Measured
    from csa.reporting.comparisons import Comparisons
    from csa.reporting.tables import Column, Row, Table

DIGITS = 4  # the last bits of a quantile differ between versions of scipy
COLUMNS = (
    *("table", "row", "in_paper", "method", "dataset", "imbalance_ratio", "backbone", "words", "metric"),
    *("published", "rule", "citation", "reduced", "head", "groups", "n", "seeds"),
    *("last_mean", "last_std", "best_mean", "best_std", "difference", "interval_low", "interval_high", "outside"),
    *("minutes", "collapsed", "split", "hardware", "fingerprints"),
)


def table_frame(table: Table) -> pd.DataFrame:
    """A line a cell and kind of run (whole, or reduced in the same way); empty where nothing is known."""
    lines = []
    for row, column, cell in table.cells():
        found: list[Measured | None] = [measured for measured in (cell.measured, *cell.others) if measured]
        paper = _of_the_paper(table, row, column, cell)
        lines += [{**paper, **_of_the_runs(measured)} for measured in found or [None]]
    return pd.DataFrame(lines, columns=list(COLUMNS)).astype({"collapsed": "Int64"})


def table_text(table: Table) -> str:
    return _csv(table_frame(table))


def comparisons_text(comparisons: Comparisons) -> str:
    return _csv(pd.DataFrame([row.as_dict() for row in comparisons.rows], columns=comparisons.columns()))


def printed_frame(table: Table) -> pd.DataFrame:
    """The table as it is printed: rows (method, line), columns (group, heading)."""
    from csa.reporting.layout import blocks

    lines = {(block.label, line.name): line.texts for block in blocks(table) for line in block.lines}
    frame = pd.DataFrame.from_dict(lines, orient="index")
    frame.index = pd.MultiIndex.from_tuples(lines, names=["method", "line"])
    frame.columns = pd.MultiIndex.from_tuples([(column.group, column.heading) for column in table.columns])
    return frame


def _csv(frame: pd.DataFrame) -> str:
    return str(frame.round(DIGITS).to_csv(index=False, lineterminator="\n"))


def _of_the_paper(table: Table, row: Row, column: Column, cell: Cell) -> dict[str, Any]:
    place, published = cell.place, cell.published
    return {
        "table": table.number + (" by head" if table.by_head else ""),
        "row": plain(column.heading if table.turned else row.label),
        "in_paper": published is not None and published.value is not None,
        "method": plain(place.method),
        "dataset": plain(place.dataset),
        "imbalance_ratio": place.imbalance_ratio,
        "backbone": plain(place.backbone),
        "words": " ".join(place.words),
        "metric": cell.metric,
        "published": cell.value,
        "rule": published.rule if published else None,
        "citation": published.citation if published else None,
    }


def _of_the_runs(measured: Measured | None) -> dict[str, Any]:
    if measured is None:
        return {"n": 0}
    runs = measured.runs
    return {
        "reduced": measured.reduced or None,
        "head": _joined(run.head(measured.view.head) for run in runs),
        "groups": "by_count" if measured.view.by_count else "by_rank",
        "n": measured.n,
        "seeds": " ".join(map(str, measured.seeds)),
        "last_mean": measured.last.mean,
        "last_std": measured.last.std,
        "best_mean": measured.best.mean,
        "best_std": measured.best.std,
        "difference": measured.difference,
        "interval_low": measured.interval.low if measured.interval else None,
        "interval_high": measured.interval.high if measured.interval else None,
        "outside": measured.outside,
        "minutes": measured.minutes,
        "collapsed": measured.collapsed,
        "split": runs[0].split,
        "hardware": _joined(f"{run.result['hardware']} ({run.result['precision']})" for run in runs),
        "fingerprints": " ".join(run.fingerprint for run in runs),
    }


def _joined(values: Iterable[str]) -> str:
    return plain("; ".join(sorted(set(values))))
