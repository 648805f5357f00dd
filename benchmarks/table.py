"""What is measured as rows: a number, its spread, and its ratio to the number it is compared with."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from statistics import median
from typing import TYPE_CHECKING, Any, Protocol

from csa.console import FoldedTable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


@dataclass(frozen=True)
class Row:
    """against: the name of the row by whose median this one's is divided."""

    name: str
    what: str
    unit: str
    against: str | None = None


class Group(Protocol):
    """Rows that are measured together, as often as there are repeats."""

    @property
    def rows(self) -> Sequence[Row]: ...

    def measure(self) -> dict[str, float]:
        """One value of each row."""


@dataclass(frozen=True)
class Measured:
    """A row's values, one a repeat. spread: (greatest - least) / median; ratio: median / against_median."""

    name: str
    what: str
    unit: str
    n: int
    median: float
    least: float
    greatest: float
    spread: float
    values: list[float]
    against: str | None
    against_median: float | None
    ratio: float | None


def measured(rows: Iterable[Row], values: Mapping[str, list[float]]) -> list[Measured]:
    """values: of every row by its name, those compared with included."""
    medians = {name: median(found) for name, found in values.items()}
    return [_measured(row, values[row.name], medians) for row in rows]


def _measured(row: Row, values: list[float], medians: Mapping[str, float]) -> Measured:
    other = None if row.against is None else medians[row.against]
    middle = medians[row.name]
    return Measured(
        row.name, row.what, row.unit,
        n=len(values), median=middle, least=min(values), greatest=max(values),
        spread=(max(values) - min(values)) / middle, values=values,
        against=row.against, against_median=other, ratio=None if other is None else middle / other,
    )  # fmt: skip


# --- shown ----------------------------------------------------------------------------------

HEADINGS = ("", "measured", "median", "spread", "unit", "ratio", "to")


def as_json(facts: Mapping[str, Any], rows: Iterable[Measured]) -> dict[str, Any]:
    return {"schema": 1, **facts, "rows": [asdict(row) for row in rows]}


def as_table(rows: Sequence[Measured]) -> FoldedTable:
    table = FoldedTable(box=None, pad_edge=False)
    for heading in HEADINGS:
        table.add_column(heading, justify="left" if heading in _LEFT else "right")
    for cells in _cells(rows):
        table.add_row(*cells)
    return table


def as_markdown(facts: Mapping[str, Any], rows: Sequence[Measured]) -> str:
    alignment = ["---" if heading in _LEFT else "---:" for heading in HEADINGS]
    lines = [HEADINGS, alignment, *_cells(rows)]
    body = "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
    listed = "".join(f"- {line}\n" for line in conditions(facts))
    return f"## {facts['machine']['hardware']}, {facts['date'][:10]}\n\n{body}\n{listed}"


def conditions(facts: Mapping[str, Any]) -> list[str]:
    """Under which the numbers hold, in sentences."""
    machine, packages = facts["machine"], facts["packages"]
    steps = "whole epochs"
    if facts["steps"] is not None:
        steps = f"{facts['steps']} steps of an epoch, from which seconds of an epoch are EXTRAPOLATED"
    load = ", ".join(f"{value:.2f}" for value in facts["load_before"])
    dirty = " with changes" if facts["git_dirty"] else ""
    return [
        f"{machine['hardware']}; {machine['precision']}, {machine['threads']} threads",
        f"data: {facts['data']}",
        f"{steps}; median and (greatest - least) / median of {facts['repeats']}",
        f"Python {facts['python']}, torch {packages['torch']}, torchvision {packages['torchvision']}",
        f"csa {facts['git_revision']}{dirty}; {facts['date']}; load before the start {load}",
        f"`{facts['command']}`",
        *(f"{one['rows']}: skipped, {one['why']}" for one in facts["skipped"]),
    ]


_LEFT = ("measured", "unit")


def _cells(rows: Sequence[Measured]) -> list[tuple[str, ...]]:
    """A ratio is to the row whose number stands behind it."""
    numbers = {row.name: str(number) for number, row in enumerate(rows, start=1)}
    return [
        (
            numbers[row.name],
            row.what,
            rounded(row.median),
            f"{row.spread:.1%}",
            row.unit,
            "" if row.ratio is None else f"{row.ratio:.3g}",
            "" if row.against is None else numbers[row.against],
        )
        for row in rows
    ]


def rounded(value: float) -> str:
    """Three significant digits, or all before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
