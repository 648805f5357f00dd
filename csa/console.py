"""The one way in which texts, tables, spans of time and numbers of things are shown to people."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

PLUS_MINUS = "±"
CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n"}


class PlainConsole(Console):
    """Shows a ``str`` as it stands: brackets and colons in it are the user's, control characters are spelt out.

    What is meant to be coloured is a ``Text``. Lines are not broken, tables are folded to the width of the terminal.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **settings)

    def render_str(self, text: str, **settings: Any) -> Text:
        return super().render_str(text.translate(CONTROL), **settings)

    def print(self, *objects: Any, **settings: Any) -> None:
        lines = all(isinstance(one, str | Text) for one in objects)
        super().print(*objects, **{"soft_wrap": lines, **settings})


class FoldedTable(Table):
    """A value that is too long for its column goes on in the next line; none is cut."""

    def add_column(self, header: Any = "", *more: Any, **settings: Any) -> None:
        super().add_column(header, *more, **{"overflow": "fold", **settings})


def duration(seconds: float) -> str:
    """``40 s``, ``12 min``, ``3.5 h``, ``2.1 d``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} d"


def two_decimals(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def counting(count: int, noun: str) -> str:
    """``1 thread``, ``2 threads``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
