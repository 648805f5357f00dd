"""Whatever a name holds, the page, the table and the terminal stay whole."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from csa.reporting.layout import Cell, Grid, Section
from csa.reporting.rendering import latex, markdown, page, plain

names = st.text(alphabet=st.one_of(st.sampled_from("<>&\"'$_%#{}^~\\|`*[]\n\r\x1b"), st.characters()), max_size=30)


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags, self.text = [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, attrs))

    def handle_data(self, data):
        self.text += data


@given(names)
def test_html_holds_no_tag_and_reads_back(name):
    grid = Grid("grid", name, ("method",), ((Cell(name, name, "main"),),))
    reader, harmless = Reader(), Reader()
    reader.feed(page([Section("one", name, name, grid, (name,), (name,), pd.DataFrame())]))
    tame = Grid("grid", "x", ("method",), ((Cell("x", "x", "main"),),))
    harmless.feed(page([Section("one", "x", "x", tame, ("x",), ("x",), pd.DataFrame())]))
    assert [tag for tag, _ in reader.tags] == [tag for tag, _ in harmless.tags]
    assert plain(name) in reader.text
    (value,) = [dict(attributes)["data-value"] for tag, attributes in reader.tags if "data-value" in dict(attributes)]
    assert value == plain(name)


@given(names)
def test_latex_holds_no_command_of_the_name(name):
    text = latex(name)
    known = r"\\(textbackslash|textasciicircum|textasciitilde|textless|textgreater|textbar|textquotedbl|dag|ddag)\{\}"
    rest = re.sub(rf"{known}|\{{[][]\}}|\\[{{}}$&#%_]|\$(\\pm|-|\\delta)\$", "", text)
    assert not set(rest) & set('\\{}$&#%_^~<>|"')
    assert "\n" not in text


@given(names)
def test_markdown_stays_one_cell(name):
    text = markdown(name)
    assert "\n" not in text
    assert not re.search(r"(?<!\\)(\\\\)*[|`*_]", text)
    assert "<" not in text


def test_by_hand():
    assert latex("50 % of $x_1$ & ±δ–†") == r"50 \% of \$x\_1\$ \& $\pm$$\delta$--\dag{}"  # noqa: RUF001
    assert latex("日本") == "??"
    assert markdown("a|b_<i>") == r"a\|b\_&lt;i&gt;"
    assert plain("a\x1b[31mb\nc") == "a [31mb c"
