"""From a table's numbers to its text: lines of each row, marks, caption. Plain Unicode; renderers translate it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from csa.reporting.cells import TOO_SMALL

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from csa.reporting.cells import Cell, Estimate, Measured
    from csa.reporting.tables import Row, Table

DASH, MINUS, PLUS_MINUS = "–", "−", "±"  # noqa: RUF001
OUTSIDE, COLLAPSED = "*", "‡"
NOT_IN_PAPER = "not in paper"
PAPER, LAST, BEST, DIFFERENCE, INTERVAL, SEEDS = (
    "paper",
    "last epoch",
    "best on test",
    f"best {MINUS} paper",
    f"95 % interval, {PLUS_MINUS}",
    "seeds; minutes",
)
LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Line:
    """One printed line of a row, a text a column."""

    name: str
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Block:
    """A row of the paper's table with its lines."""

    label: str
    lines: tuple[Line, ...]


def blocks(table: Table) -> list[Block]:
    kinds = reduced_kinds(table)
    digits = decimals(table)
    return [Block(row_label(row), tuple(_lines(row, table, kinds, digits))) for row in table.rows]


def row_label(row: Row) -> str:
    return row.label if row.in_paper else f"{row.label} ({NOT_IN_PAPER})"


def decimals(table: Table) -> int:
    """As many as the published values have, one or two."""
    values = [cell.value for _, _, cell in table.cells() if cell.value is not None]
    return 2 if any(abs(10 * value - round(10 * value)) > 1e-6 for value in values) else 1


def reduced_kinds(table: Table) -> list[str]:
    """How runs are reduced, in the order of their letters."""
    return sorted({measured.reduced for measured in table.measured() if measured.reduced})


def letter(kinds: Sequence[str], kind: str) -> str:
    place = kinds.index(kind)
    return LETTERS[place] if place < len(LETTERS) else str(place + 1)


# --- lines ----------------------------------------------------------------------------------


def _lines(row: Row, table: Table, kinds: Sequence[str], digits: int) -> list[Line]:
    cells = row.cells
    lines = [Line(PAPER, tuple(paper_text(cell, digits) for cell in cells))]
    whole = [cell.measured if cell else None for cell in cells]
    lines += _measured_lines(whole, table, digits, "")
    for kind in kinds:
        others = [next((m for m in cell.others if m.reduced == kind), None) if cell else None for cell in cells]
        if any(others):
            lines += _measured_lines(others, table, digits, f"reduced {letter(kinds, kind)}: ")
    return lines


def _measured_lines(found: Sequence[Measured | None], table: Table, digits: int, prefix: str) -> list[Line]:
    """A single line of dashes where nothing was run."""

    def line(name: str, text: Callable[[Measured], str], dash: str = "") -> Line:
        return Line(prefix + name, tuple(text(measured) if measured else dash for measured in found))

    last = line(LAST, lambda m: estimate_text(m.last, digits) + (COLLAPSED if m.collapsed else ""), DASH)
    if not any(found):
        return [last]
    lines = [last, line(BEST, lambda m: estimate_text(m.best, digits))]
    if any(measured and measured.difference is not None for measured in found):
        lines.append(line(DIFFERENCE, lambda m: difference_text(m, digits)))
    lines.append(line(INTERVAL, lambda m: interval_text(m, digits)))
    firsts = _first_of_each_place(table)
    seeds = [seeds_text(m) if m and first else "" for m, first in zip(found, firsts, strict=True)]
    return [*lines, Line(prefix + SEEDS, tuple(seeds))]


def _first_of_each_place(table: Table) -> list[bool]:
    """Seeds and minutes are the same for all metrics of a place: they stand under the first."""
    if table.turned:
        return [True] * len(table.columns)
    keys = [column.key for column in table.columns]
    return [key not in keys[:place] for place, key in enumerate(keys)]


# --- texts ----------------------------------------------------------------------------------


def paper_text(cell: Cell | None, digits: int) -> str:
    if cell is None or cell.value is None:
        return NOT_IN_PAPER if cell is not None and (cell.measured or cell.others) else DASH
    return f"{cell.value:.{digits}f}"


def estimate_text(estimate: Estimate, digits: int) -> str:
    spread = "" if estimate.std is None else f" {PLUS_MINUS} {estimate.std:.{digits}f}"
    return f"{estimate.mean:.{digits}f}{spread}"


def difference_text(measured: Measured, digits: int) -> str:
    if measured.difference is None:
        return ""
    return signed(measured.difference, digits) + (OUTSIDE if measured.outside else "")


def signed(value: float, digits: int) -> str:
    rounded = round(value, digits) + 0.0  # -0.0 becomes 0.0
    sign = MINUS if rounded < 0 else "+" if rounded > 0 else ""
    return f"{sign}{abs(rounded):.{digits}f}"


def interval_text(measured: Measured, digits: int) -> str:
    if measured.interval is None:
        return TOO_SMALL
    return f"{PLUS_MINUS} {(measured.interval.high - measured.interval.low) / 2:.{digits}f}"


def number(value: float, digits: int) -> str:
    """With the sign that mathematics prints."""
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", MINUS)


def seeds_text(measured: Measured) -> str:
    collapsed = f"; {measured.collapsed} collapsed" if measured.collapsed else ""
    return f"{spans(measured.seeds)}; {minutes_text(measured.minutes)}{collapsed}"


def minutes_text(minutes: float) -> str:
    return f"{minutes:.1f}" if minutes < 99.95 else f"{minutes:.0f}"


def spans(numbers: Sequence[int]) -> str:
    """``0-4``, ``0-2, 7``."""
    parts: list[list[int]] = []
    for value in sorted(set(numbers)):
        if parts and value == parts[-1][-1] + 1:
            parts[-1].append(value)
        else:
            parts.append([value])
    return ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]}{DASH}{part[-1]}" for part in parts)
