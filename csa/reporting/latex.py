"""Tables as LaTeX with booktabs: fragments to include, and one document that holds them all."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from csa.reporting.caption import sentences
from csa.reporting.comparison_text import HEADINGS, comparison_caption, comparison_cells
from csa.reporting.escaping import latex
from csa.reporting.layout import blocks

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from csa.reporting.comparisons import Comparisons
    from csa.reporting.tables import Table

UPRIGHT_COLUMNS, MOST_COLUMNS = 7, 12  # more are printed sideways, still more in smaller letters
PREAMBLE = r"""\documentclass{article}
\usepackage[T1]{fontenc}
\usepackage[utf8]{inputenc}
\usepackage[a4paper,margin=1.5cm]{geometry}
\usepackage{booktabs,longtable,rotating,pdflscape}
\begin{document}
"""
PACKAGES = "% needs \\usepackage[T1]{fontenc} and the packages booktabs, longtable, pdflscape\n"


def table_text(table: Table) -> str:
    """A long table, over several pages where it must be; on sideways pages where it has many columns."""
    groups = [(name, len(list(columns))) for name, columns in groupby(table.columns, lambda column: column.group)]
    lines = []
    for block in blocks(table):
        for place, line in enumerate(block.lines):
            end = r"\\" if place == len(block.lines) - 1 else r"\\*"
            lines.append(_row([block.label if place == 0 else "", line.name, *line.texts], end))
        lines.append(r"\addlinespace")
    head = [_grouping(groups), _row(["Method", "", *(column.heading for column in table.columns)])]
    _, *rest = sentences(table)
    caption = [f"{table.title}.", *rest]
    return _long(table.name, "ll" + "r" * len(table.columns), head, lines[:-1], caption)


def comparisons_text(comparisons: Comparisons) -> str:
    _, *rest = caption = comparison_caption(comparisons)
    lines = [_row(comparison_cells(row)) for row in comparisons.rows]
    if not lines:
        return PACKAGES + latex(" ".join(caption)) + "\n"
    title = f"{comparisons.title}."
    columns = "lll" + "r" * (len(HEADINGS) - 3)
    return _long(f"comparisons{comparisons.number}", columns, [_row(HEADINGS)], lines, [title, *rest])


def document(fragments: Iterable[str]) -> str:
    """What pdflatex takes; fragments: names of files beside it."""
    inputs = "".join(f"\\input{{{name}}}\n\\clearpage\n" for name in fragments)
    return f"{PREAMBLE}{inputs}\\end{{document}}\n"


def _long(label: str, columns: str, head: Sequence[str], lines: Sequence[str], caption: Sequence[str]) -> str:
    sideways = len(columns) - 2 > UPRIGHT_COLUMNS
    narrow = len(columns) - 2 > MOST_COLUMNS
    size = r"\fontsize{6}{7}\selectfont" if narrow else r"\scriptsize"
    gap = "1.5pt" if narrow else "2.5pt"
    text = [
        *([r"\begin{landscape}"] if sideways else []),
        rf"\begingroup{size}\setlength{{\tabcolsep}}{{{gap}}}\setlength{{\LTcapwidth}}{{\linewidth}}",
        rf"\begin{{longtable}}{{@{{}}{columns}@{{}}}}",
        rf"\caption{{{' '.join(map(latex, caption))}}}\label{{tab:{label}}}\\",
        *(r"\toprule", *head, r"\midrule", r"\endfirsthead"),
        *(r"\toprule", *head, r"\midrule", r"\endhead"),
        *(r"\bottomrule", r"\endfoot"),
        *lines,
        r"\end{longtable}",
        r"\endgroup",
        *([r"\end{landscape}"] if sideways else []),
    ]
    return PACKAGES + "\n".join(text) + "\n"


def _grouping(groups: Sequence[tuple[str, int]]) -> str:
    cells = " & ".join(rf"\multicolumn{{{width}}}{{c}}{{{latex(name)}}}" for name, width in groups)
    rules, start = [], 3
    for _, width in groups:
        rules.append(rf"\cmidrule(lr){{{start}-{start + width - 1}}}")
        start += width
    return f" & & {cells} \\\\\n{''.join(rules)}"


def _row(cells: Sequence[str], end: str = r"\\") -> str:
    """A row that begins with a bracket would be read as an argument of the line break before it."""
    escaped = [latex(cell) for cell in cells]
    return " & ".join(f"{{{cell}}}" if cell.startswith("[") else cell for cell in escaped) + f" {end}"
