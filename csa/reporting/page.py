"""The report as one page: no request leaves it, light and dark, sortable, readable on a phone."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from csa.reporting.caption import sentences
from csa.reporting.comparison_text import HEADINGS, comparison_caption, comparison_cells
from csa.reporting.escaping import web
from csa.reporting.layout import COLLAPSED, DIFFERENCE, LAST, NOT_IN_PAPER, OUTSIDE, PAPER, blocks
from csa.reporting.names import printed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from csa.reporting.comparisons import Comparison, Comparisons
    from csa.reporting.layout import Block
    from csa.reporting.tables import Column, Row, Table

TITLE = "csa: published and measured"
LEFT = 3  # first columns of a comparison hold text
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


@dataclass(frozen=True)
class Drawn:
    """A figure: name of its files without ending, caption, text instead of the picture, content by ending.

    points: of a figure of networks what it can be drawn from without them (``csa.figures.points``), else empty.
    """

    name: str
    caption: str
    alternative: str
    files: dict[str, bytes]
    fingerprints: tuple[str, ...] = ()
    points: bytes = b""

    @property
    def title(self) -> str:
        """``Figure 4``, ``Figure 2, MNIST-LT``, ``Per class``."""
        figure = "per_class" if self.name.startswith("per_class") else self.name.partition("_")[0]
        dataset = self.name.removeprefix(figure).removeprefix("_")
        title = figure.replace("figure", "Figure ").replace("_", " ").capitalize()
        return f"{title}, {printed(dataset)}" if dataset else title


def page(tables: Sequence[Table], comparisons: Sequence[Comparisons], figures: Sequence[Drawn]) -> str:
    sections = [
        *((table.name, table.heading, _table(table)) for table in tables),
        *((f"comparisons{one.number}", f"Comparisons {one.number}".strip(), _comparisons(one)) for one in comparisons),
        *((f"figure-{drawn.name}", drawn.title, _figure(drawn)) for drawn in figures),
    ]
    links = "".join(f'<li><a href="#{web(name)}">{web(title)}</a></li>' for name, title, _ in sections)
    bodies = "".join(f'<section id="{web(name)}">\n{body}</section>\n' for name, _, body in sections)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n<link rel="icon" href="data:,">\n'
        f"<title>{TITLE}</title>\n<style>\n{_beside('page.css')}</style>\n</head>\n<body>\n<header>\n<h1>{TITLE}</h1>\n"
        "<p>The tables of <cite>How Re-sampling Helps for Long-Tail Learning?</cite> (Shi, Wei, Xiang, Li; NeurIPS "
        "2023), each published value beside what was measured. Headings sort by the value at the last epoch.</p>\n"
        f'<nav aria-label="Contents"><ul>{links}</ul></nav>\n</header>\n<main>\n{bodies}</main>\n'
        f"<script>\n{_beside('page.js')}</script>\n</body>\n</html>\n"
    )


def _beside(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


# --- tables ---------------------------------------------------------------------------------


def _table(table: Table) -> str:
    title, *rest = sentences(table)
    rows = "".join(_row(table, row, block) for row, block in zip(table.rows, blocks(table), strict=True))
    name = f"title-{table.name}"
    return _section(name, title, _head(table), rows, rest)


def _section(name: str, title: str, head: str, rows: str, notes: Sequence[str]) -> str:
    """A heading, a region that scrolls sideways, by keyboard too, with the table, and what is to be said of it."""
    return (
        f'<h2 id="{name}">{web(title)}</h2>\n'
        f'<div class="scroll" role="region" tabindex="0" aria-labelledby="{name}"><table aria-labelledby="{name}">\n'
        f"<thead>\n{head}</thead>\n<tbody>\n{rows}</tbody>\n</table></div>\n{_notes(notes)}"
    )


def _head(table: Table) -> str:
    groups = [(name, len(list(columns))) for name, columns in groupby(table.columns, lambda column: column.group)]
    above = "".join(f'<th scope="colgroup" colspan="{width}"><span>{web(name)}</span></th>' for name, width in groups)
    starts = _starts(table.columns)
    below = "".join(
        f'<th scope="col"{_class("start" if start else "")}>{_sorter(column.heading, place + 1, "number")}</th>'
        for place, (column, start) in enumerate(zip(table.columns, starts, strict=True))
    )
    method = f'<th scope="col" class="first" rowspan="2">{_sorter("Method", 0, "text")}</th>'
    return f"<tr>{method}{above}</tr>\n<tr>{below}</tr>\n"


def _starts(columns: Sequence[Column]) -> list[bool]:
    """Whether a column begins a group."""
    return [place == 0 or columns[place - 1].group != column.group for place, column in enumerate(columns)]


def _sorter(heading: str, column: int, kind: str) -> str:
    return f'<button type="button" data-column="{column}" data-kind="{kind}">{web(heading)}</button>'


def _row(table: Table, row: Row, block: Block) -> str:
    cells = []
    for place, (cell, start) in enumerate(zip(row.cells, _starts(table.columns), strict=True)):
        lines = [(line.name, line.texts[place]) for line in block.lines if line.texts[place]]
        value = cell.measured.last.mean if cell and cell.measured else None
        shown = "" if value is None else f"{value:.6f}"
        cells.append(f'<td{_class("start" if start else "")} data-value="{shown}">{_lines(lines)}</td>')
    label = web(row.label)
    if not row.in_paper:
        label = f'{web(row.label)} <span class="absent">({NOT_IN_PAPER})</span>'
    return f'<tr><th scope="row" data-value="{web(row.label)}">{label}</th>{"".join(cells)}</tr>\n'


def _lines(lines: Sequence[tuple[str, str]]) -> str:
    parts = []
    for name, text in lines:
        kinds = ["main"] if name == LAST else []
        kinds += ["marked"] if text.endswith((OUTSIDE, COLLAPSED)) and name in (DIFFERENCE, LAST) else []
        kinds += ["absent"] if name == PAPER and text == NOT_IN_PAPER else []
        parts.append(f"<dt>{web(name)}</dt><dd{_class(' '.join(kinds))}>{web(text)}</dd>")
    return f"<dl>{''.join(parts)}</dl>"


def _class(names: str) -> str:
    return f' class="{names}"' if names else ""


def _notes(sentences: Sequence[str]) -> str:
    return f'<ul class="note">{"".join(f"<li>{web(sentence)}</li>" for sentence in sentences)}</ul>\n'


# --- comparisons, figures -------------------------------------------------------------------


def _comparisons(comparisons: Comparisons) -> str:
    title, *rest = comparison_caption(comparisons)
    name = f"title-comparisons{comparisons.number}"
    kinds = ["text"] * LEFT + ["number"] * (len(HEADINGS) - LEFT - 1) + ["text"]
    head = "".join(
        f'<th scope="col"{_class("first" if place == 0 else "")}>{_sorter(heading, place, kind)}</th>'
        for place, (heading, kind) in enumerate(zip(HEADINGS, kinds, strict=True))
    )
    rows = "".join(_comparison(row) for row in comparisons.rows)
    return _section(name, title, f"<tr>{head}</tr>\n", rows, rest)


def _comparison(row: Comparison) -> str:
    where, first, second, *others = comparison_cells(row)
    test, images = row.test, row.predictions
    numbers: list[float | None] = [
        *(len(row.seeds), row.means[0] if row.means else None),
        *((test.difference, test.interval.low, test.p, row.corrected) if test else (None,) * 4),
        *((images.only_first, images.p, row.predictions_corrected) if images else (None,) * 3),
    ]
    cells = [_text_cell(first), _text_cell(second)]
    cells += [
        f'<td data-value="{"" if value is None else f"{value:.6g}"}">{web(text)}</td>'
        for text, value in zip(others, numbers, strict=False)
    ]
    cells.append(_text_cell(others[-1]))
    return f'<tr><th scope="row" data-value="{web(where)}">{web(where)}</th>{"".join(cells)}</tr>\n'


def _text_cell(text: str) -> str:
    return f'<td class="text" data-value="{web(text)}">{web(text)}</td>'


def _figure(drawn: Drawn) -> str:
    source = base64.b64encode(drawn.files["svg"]).decode("ascii")
    picture = f'<img src="data:image/svg+xml;base64,{source}" alt="{web(drawn.alternative)}">'
    return (
        f"<h2>{web(drawn.title)}</h2>\n<figure>\n{picture}\n<figcaption>{web(drawn.caption)}</figcaption>\n</figure>\n"
    )
