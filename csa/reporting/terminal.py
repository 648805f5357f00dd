"""Tables in the terminal: one for each group of columns, so that they fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from csa.console import FoldedTable
from csa.reporting.caption import sentences
from csa.reporting.comparison_text import comparison_caption, comparison_cells
from csa.reporting.escaping import plain
from csa.reporting.layout import DASH, PAPER, blocks

if TYPE_CHECKING:
    from collections.abc import Iterable

    from csa.console import PlainConsole
    from csa.reporting.comparisons import Comparisons
    from csa.reporting.tables import Table

MOST_COLUMNS = 5


def print_table(console: PlainConsole, table: Table) -> None:
    title, *rest = sentences(table)
    console.print(Text(plain(title), style="bold"))
    for group, places in _pieces(table):
        piece = FoldedTable(title=plain(group), title_justify="left", box=None, pad_edge=False, header_style="bold")
        piece.add_column()
        piece.add_column(style="dim")
        for place in places:
            piece.add_column(plain(table.columns[place].heading), justify="right")
        for block in blocks(table):
            for number, line in enumerate(block.lines):
                texts = [line.texts[place] for place in places]
                if number > 1 and set(texts) <= {"", DASH}:
                    continue
                label = block.label if number == 0 else ""
                style = "bold" if line.name != PAPER else ""
                piece.add_row(plain(label), line.name, *(Text(plain(text), style=style) for text in texts))
        console.print(piece)
        console.print()
    _print_sentences(console, rest)


def print_comparisons(console: PlainConsole, comparisons: Comparisons) -> None:
    """A line a comparison, in words: thirteen columns fit no terminal."""
    title, *rest = comparison_caption(comparisons)
    console.print(Text(plain(title), style="bold"))
    for row in comparisons.rows:
        cells = [plain(cell) for cell in comparison_cells(row)]
        where, first, second, seeds, means, difference, interval, p, corrected, images, p_images, images_p, verdict = (
            cells
        )
        line = Text(f"{where}: {first} against {second}, seeds {seeds}, means {means}: ")
        line.append(verdict, style="bold")
        if row.test:
            line.append(f"\n    difference {difference}, 95 % interval {interval}, p {p}, corrected {corrected}")
            line.append(f"\n    images only one has right {images}, p {p_images}, corrected {images_p}")
        console.print(line)
    _print_sentences(console, rest)


def _pieces(table: Table) -> list[tuple[str, list[int]]]:
    """Places of the columns of each group, at most five at once."""
    groups: dict[str, list[int]] = {}
    for place, column in enumerate(table.columns):
        groups.setdefault(column.group, []).append(place)
    return [
        (group, places[start : start + MOST_COLUMNS])
        for group, places in groups.items()
        for start in range(0, len(places), MOST_COLUMNS)
    ]


def _print_sentences(console: PlainConsole, sentences: Iterable[str]) -> None:
    for sentence in sentences:
        console.print(Text(plain(sentence), style="dim"), soft_wrap=False)
    console.print()
