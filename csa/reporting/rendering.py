"""Sections as Markdown, LaTeX, HTML, CSV and in the terminal: one Jinja2 template a format, every text made safe.

Names come from configurations, so none is trusted. The same records give the same bytes.
"""

from __future__ import annotations

import base64
import html
import re
from collections import defaultdict
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

from csa.cli import writing_to
from csa.reporting.layout import Grid, Section, as_csv, is_none
from csa.reporting.notes import legend

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from jinja2 import Environment

    from csa.console import FoldedTable, PlainConsole
    from csa.reporting.layout import Drawn

TEMPLATES = Path(__file__).with_name("templates")
TITLE = "csa: what was measured"
ENDINGS = {"markdown": "md", "latex": "tex", "csv": "csv"}
MARKDOWN = re.compile(r"([\\`*_{}\[\]|~#$])")
LAST_LATIN = 0x180  # Latin Extended-A ends there
LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "±": r"$\pm$", "−": "$-$", "–": "--", "“": "``", "”": "''",  # noqa: RUF001
    "†": r"\dag{}", "‡": r"\ddag{}", "δ": r"$\delta$", "[": "{[}", "]": "{]}",
}  # fmt: skip
DOCUMENT = r"""\documentclass{article}
\usepackage[T1]{fontenc}
\usepackage[utf8]{inputenc}
\usepackage[a4paper,margin=1.5cm]{geometry}
\usepackage{booktabs,longtable,caption}
\begin{document}
%s\end{document}
"""
MOST_COLUMNS = 6  # of a paper's layout on a page, beside the method


# --- every text safe ------------------------------------------------------------------------


def plain(text: str) -> str:
    """On one line, without characters that steer a terminal."""
    return text if text.isprintable() else "".join(char if char.isprintable() else " " for char in text)


def markdown(text: str) -> str:
    return html.escape(MARKDOWN.sub(r"\\\1", plain(text)), quote=False)


def latex(text: str) -> str:
    """For pdflatex with T1 fonts; a character that these have not becomes a question mark."""
    return "".join(LATEX.get(char, char if ord(char) < LAST_LATIN else "?") for char in plain(text))


def _shortstack(lines: Sequence[str]) -> str:
    text = r"\\".join(map(latex, lines))
    return text if len(lines) == 1 else rf"\shortstack[r]{{{text}}}"


@cache
def _environment() -> Environment:
    """With our templates, each compiled once."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        autoescape=select_autoescape(("html.j2",), default_for_string=False, default=False),
        finalize=lambda value: plain(value) if type(value) is str else value,
    )  # fmt: skip
    environment.filters |= {
        "markdown": markdown,
        "latex": latex,
        "broken": lambda lines: "<br>".join(map(markdown, lines)),
        "shortstack": _shortstack,
        "base64": lambda content: base64.b64encode(content).decode("ascii"),
        "bold": lambda text, kind: f"**{text}**" if kind in ("main", "baseline") and text else text,
        "bolder": lambda text, kind: rf"\textbf{{{text}}}" if kind in ("main", "baseline") and text else text,
    }
    environment.tests["missing"] = is_none
    return environment


@cache
def _latex_environment() -> Environment:
    """Braces and percent signs are LaTeX's own."""
    return _environment().overlay(
        block_start_string="((*", block_end_string="*))", variable_start_string="(((", variable_end_string=")))",
        comment_start_string="((=", comment_end_string="=))",
    )  # fmt: skip


def rendered(template: str, **values: object) -> str:
    """A template of ``templates`` with these values."""
    return _environment().get_template(template).render(values).strip() + "\n"


# --- formats --------------------------------------------------------------------------------


def as_text(form: str, sections: Sequence[Section], *, full: bool = False) -> str:
    """All of them in one text: markdown, latex, csv or html. full: with every head and test."""
    if form == "csv":
        return "\n".join(as_csv(section.data) for section in sections)
    if form == "html":
        return page(sections)
    environment = _latex_environment() if form == "latex" else _environment()
    template = environment.get_template(f"report.{ENDINGS[form]}.j2")
    text = template.render(sections=sections, legend=_legend(sections), grids=lambda one: _grids(one, full))
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _legend(sections: Sequence[Section]) -> tuple[str, ...]:
    return tuple(legend(sections)) if any(section.details for section in sections) else ()


def _grids(section: Section, full: bool) -> list[Grid]:
    """A grid with groups of columns in pieces that fit a page."""
    pieces = list(_pieces(section.grid)) if section.grid.groups else [section.grid]
    return pieces + (list(section.details) if full else [])


def _pieces(grid: Grid) -> Iterator[Grid]:
    """As many groups side by side as have room; a piece of one group has its name in the corner."""
    groups, start = list(grid.groups), 1
    while groups:
        widths = list(accumulate(width for _, width in groups))
        number = max(1, sum(width <= MOST_COLUMNS for width in widths))
        these, groups = groups[:number], groups[number:]
        part = slice(start, start := start + widths[number - 1])
        rows = tuple((row[0], *row[part]) for row in grid.rows if any(cell.text for cell in row[part]))
        (name, _), alone = these[0], number == 1
        headings = (name if alone else grid.headings[0], *grid.headings[part])
        yield Grid(grid.name, name if alone else grid.title, headings, rows, () if alone else tuple(these))


def page(
    sections: Sequence[Section],
    tables: Sequence[Section] = (),
    figures: Sequence[Drawn] = (),
    colours: Mapping[str, str] | None = None,
) -> str:
    """Everything on one page that asks for nothing: verdicts first, a section a data set, the paper's tables."""
    known: dict[str, str] = defaultdict(str, colours or {})
    return rendered(
        "page.html.j2",
        title=TITLE,
        sections=list(sections),
        tables=list(tables),
        figures=figures,
        legend=_legend(sections),
        colours=known,
    )


# --- the terminal ---------------------------------------------------------------------------

STYLES = {"main": "bold", "baseline": "bold", "better": "bold green", "worse": "bold red", "marked": "yellow"}


def print_sections(console: PlainConsole, sections: Sequence[Section], *, full: bool = False) -> None:
    from rich.text import Text

    def say(text: str, style: str) -> None:
        console.print(Text(plain(text), style=style), soft_wrap=False)

    for section in sections:
        say(section.title, "bold")
        if section.verdict:
            say(section.verdict, "")
        for grid in _grids(section, full):
            if grid.rows:
                console.print(_in_terminal(grid))
        for note in (*section.marks, *(section.notes if full else ())):
            say(note, "dim")
        console.print()
    for note in _legend(sections):
        say(note, "dim")


def _in_terminal(grid: Grid) -> FoldedTable:
    from rich.text import Text

    from csa.console import FoldedTable

    table = FoldedTable(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    for place, heading in enumerate(grid.stacked):
        table.add_column("\n".join(map(plain, heading)), justify="right" if place else "left")
    for row in grid.rows:
        table.add_row(*(Text(plain(cell.text), style=STYLES.get(cell.kind, "")) for cell in row))
    return table


# --- files ----------------------------------------------------------------------------------


def write(
    to: Path,
    sections: Sequence[Section],
    tables: Sequence[Section],
    figures: Sequence[Drawn],
    colours: Mapping[str, str],
    runs: str,
) -> str:
    """Every section in every format, the figures with their captions, the runs as CSV and the page. Says where.

    figures: all of them; those of a section stand beside it. runs: the frame as CSV.
    """
    files: dict[str, bytes] = {"runs.csv": runs.encode()}
    for section in (*sections, *tables):
        for form, ending in ENDINGS.items():
            files[f"tables/{section.name}.{ending}"] = as_text(form, [section], full=True).encode()
    if sections:
        files["tables.md"] = as_text("markdown", sections).encode()
    inputs = "".join(f"\\input{{{section.name}.tex}}\n\\clearpage\n" for section in (*sections, *tables))
    files["tables/all.tex"] = (DOCUMENT % inputs).encode()
    for drawn in figures:
        files |= {f"figures/{name}": content for name, content in drawn.with_caption.items()}
    alone = [drawn for drawn in figures if not drawn.section]
    files["index.html"] = page(sections, tables, alone, colours).encode()
    write_files(to, files)
    return f"{to / 'index.html'}: the report ({len(files)} files)"


def write_files(to: Path, files: Mapping[str, bytes]) -> None:
    with writing_to(to):
        for name, content in sorted(files.items()):
            path = to / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
