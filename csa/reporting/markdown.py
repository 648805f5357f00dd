"""Tables as Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from csa.reporting.caption import sentences
from csa.reporting.comparison_text import HEADINGS, comparison_caption, comparison_cells
from csa.reporting.escaping import markdown
from csa.reporting.layout import blocks

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from csa.reporting.comparisons import Comparisons
    from csa.reporting.tables import Column, Table


def table_text(table: Table) -> str:
    heading, *rest = (markdown(sentence) for sentence in sentences(table))
    rows = [["Method", "", *(_heading(column) for column in table.columns)]]
    for block in blocks(table):
        for place, line in enumerate(block.lines):
            rows.append([block.label if place == 0 else "", line.name, *line.texts])
    alignment = ["---", "---", *(["---:"] * len(table.columns))]
    return f"## {heading}\n\n{_grid(rows, alignment)}\n{' '.join(rest)}\n"


def comparisons_text(comparisons: Comparisons) -> str:
    heading, *rest = (markdown(sentence) for sentence in comparison_caption(comparisons))
    rows = [list(HEADINGS), *(comparison_cells(row) for row in comparisons.rows)]
    alignment = ["---"] * 3 + ["---:"] * (len(HEADINGS) - 3)
    body = _grid(rows, alignment) + "\n" if comparisons.rows else ""
    return f"## {heading}\n\n{body}{' '.join(rest)}\n"


def _heading(column: Column) -> str:
    return f"{column.group} {column.heading}"


def _grid(rows: Iterable[Sequence[str]], alignment: Sequence[str]) -> str:
    first, *others = (" | ".join(map(markdown, row)) for row in rows)
    return "".join(f"| {row} |\n" for row in (first, " | ".join(alignment), *others))
