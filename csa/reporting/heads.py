"""The heads of a table's methods, one row each: which of them stands for a run is a choice that a reader can check."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from csa.reporting.cells import measure
from csa.reporting.tables import Row, Table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from csa.reporting.cells import Cell, Measured, View


def heads_table(table: Table) -> Table | None:
    """Of every row whose runs have several heads a row for each, in the columns where these have runs; None where
    there is no such row.

    Published values stand beside every head: the papers do not say of which one they are.
    """
    rows = [by_head for row in table.rows for by_head in _rows(row, table.view)]
    places = [place for place, cells in enumerate(zip(*(row.cells for row in rows), strict=True)) if _runs(cells)]
    rows = [replace(row, cells=tuple(row.cells[place] for place in places)) for row in rows]
    columns = tuple(table.columns[place] for place in places)
    return replace(table, columns=columns, rows=rows, by_head=True) if rows else None


def _runs(cells: Iterable[Cell | None]) -> bool:
    return any(cell and (cell.measured or cell.others) for cell in cells)


def _rows(row: Row, view: View) -> Iterator[Row]:
    heads = dict.fromkeys(head for cell in row.cells if cell for run in cell.runs() for head in run.result["heads"])
    if len(heads) < 2:
        return
    for head in heads:
        own = replace(view, head=head)
        cells = tuple(cell and _cell(cell, own) for cell in row.cells)
        yield replace(row, label=f"{row.label}, {head}", cells=cells)


def _cell(cell: Cell, view: View) -> Cell:
    found = (_measured(cell, one, view) for one in cell.others)
    return replace(
        cell,
        measured=cell.measured and _measured(cell, cell.measured, view),
        others=tuple(one for one in found if one),
    )


def _measured(cell: Cell, measured: Measured, view: View) -> Measured | None:
    """None where a run has no such head."""
    if any(view.head not in run.result["heads"] for run in measured.runs):
        return None
    return measure(measured.runs, cell.metric, view, cell.published, measured.reduced)
