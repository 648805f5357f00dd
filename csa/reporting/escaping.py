"""Any text, safe in Markdown, LaTeX, HTML and the terminal: names come from configurations."""

from __future__ import annotations

import html
import re

MARKDOWN = re.compile(r"([\\`*_{}\[\]|~#$])")
LAST_LATIN = 0x180  # Latin Extended-A ends there
LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "±": r"$\pm$",
    "−": "$-$",  # noqa: RUF001
    "–": "--",  # noqa: RUF001
    "“": "``",
    "”": "''",
    "†": r"\dag{}",
    "‡": r"\ddag{}",
    "δ": r"$\delta$",
}


def plain(text: str) -> str:
    """On one line, without characters that steer a terminal."""
    return "".join(char if char.isprintable() else " " for char in text)


def markdown(text: str) -> str:
    return html.escape(MARKDOWN.sub(r"\\\1", plain(text)), quote=False)


def latex(text: str) -> str:
    """For pdflatex with T1 fonts; a character that these have not becomes a question mark."""
    return "".join(LATEX.get(char, char if ord(char) < LAST_LATIN else "?") for char in plain(text))


def web(text: str) -> str:
    return html.escape(plain(text), quote=True)
