"""What people see: texts as they stand, tables of any width, streams that outlive their reader."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text

from csa import console as consoles
from csa.console import FoldedTable, PlainConsole

HERE = Path(consoles.__file__).parent


def printed(*objects: object, width: int = 60) -> str:
    console = PlainConsole(width=width, record=True, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
    console.print(*objects)
    return console.export_text()


@pytest.mark.parametrize("text", ["runs[exp1]", "runs [/exp]", "[bold]x[/]", "a :smile: b", "x" * 300, "a = 3 'b' /c"])
def test_a_text_is_printed_as_it_stands(text):
    assert printed(text) == f"{text}\n"
    table = FoldedTable("heading", title=text)
    table.add_row(text)
    assert "".join(printed(table, width=400).split()).count("".join(text.split())) == 2


def test_characters_that_steer_a_terminal_are_spelt_out():
    assert printed("a\x1b[31mb\x07\x9b") == "a\\x1b[31mb\\x07\\x9b\n"
    assert printed(Text("red", "red"), "[b]") == "red [b]\n"


VALUES = st.lists(st.text("abc0123456789._-±", min_size=1, max_size=50), min_size=1, max_size=7)


@given(st.lists(VALUES, min_size=1, max_size=3), st.integers(30, 100))
def test_a_narrow_terminal_drops_no_value(rows, width):
    columns = max(map(len, rows))
    table = FoldedTable(*[""] * columns, show_header=False)
    for row in rows:
        table.add_row(*row, end_section=True)
    sections, section = [], [""] * columns
    for line in printed(table, width=width).splitlines()[1:]:
        if line[0] == "│":
            section = [known + part.strip() for known, part in zip(section, line.split("│")[1:-1], strict=True)]
        else:
            sections.append(section)
            section = [""] * columns
    assert sections == [row + [""] * (columns - len(row)) for row in rows]


def test_there_is_one_maker_of_consoles_and_tables():
    others = [path for path in HERE.rglob("*.py") if path.name != "console.py"]
    makers = ("from rich.table import", "rich.console import Console", "rich import print", "rich.markup")
    assert [path for path in others if any(maker in path.read_text() for maker in makers)] == []


STREAMS = """
import sys, time
from csa.cli import say, settle_process
settle_process()
print("postgresql://me:secret@host \\u2713", flush=True)
sys.stdin.readline()
for _ in range(20000):
    print("line after line")
say("a line")
sys.stderr.write("still here")
"""


def test_a_process_outlives_its_reader_and_shows_no_password():
    process = subprocess.Popen(
        [sys.executable, "-c", STREAMS], env=os.environ | {"PYTHONIOENCODING": "ascii"},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stderr is not None
    assert process.stdout.readline() == "postgresql://***@host \\u2713\n"
    process.stdout.close()
    process.stdin.write("\n")
    process.stdin.close()
    assert process.stderr.read() == "still here"
    assert process.wait() == 0
