"""How figures look: paper width, colours that colour-blind readers can tell apart, the same bytes every time."""

from __future__ import annotations

import textwrap
from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, StrMethodFormatter

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

WIDTH = 5.5  # inches: the text width of a NeurIPS page
DOTS_PER_INCH = 200
# Okabe and Ito 2008 without its yellow, which is too light for lines; then two greys.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#999999")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")
LINES = ("-", "--", "-.", ":")
MOST_TOGETHER = len(COLOURS)
"""More lines than that have no look of their own in one picture: each has a tile."""
TILE_COLUMNS, TILE_HEIGHT = 4, 1.05  # inches
LEGEND_LINE, LEGEND_COLUMNS = 0.15, 3  # inches a line, labels in it

SETTINGS: Any = {  # the keys are matplotlib's
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "legend.frameon": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "csa",  # else the names inside an SVG are random
    "text.parse_math": False,  # a name with a dollar sign is a name
}


@contextmanager
def style() -> Iterator[None]:
    with mpl.rc_context(SETTINGS):
        yield


def canvas(height: float, rows: int = 1, columns: int = 1, **more: Any) -> tuple[Figure, np.ndarray]:
    """A figure of paper width, and its axes [rows, columns]."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes: np.ndarray = figure.subplots(rows, columns, squeeze=False, **more)
    return figure, axes


def tiles(titles: Sequence[str], across: str, up: str) -> tuple[Figure, list[Axes]]:
    """A figure of small axes that share their scales, one a title; across, up: what the scales are."""
    rows = -(-len(titles) // TILE_COLUMNS)
    figure, axes = canvas(0.3 + TILE_HEIGHT * rows, rows, TILE_COLUMNS, sharex=True, sharey=True)
    found: list[Axes] = list(axes.flat)
    for one, title in zip(found, titles, strict=False):
        one.set_title(title, loc="left", fontsize=6.5)
        one.tick_params(labelsize=6)
    for one in found[len(titles) :]:
        one.set_visible(False)
        found[found.index(one) - TILE_COLUMNS].tick_params(labelbottom=True)
    figure.supxlabel(across, fontsize=8)
    figure.supylabel(up, fontsize=8)
    return figure, found[: len(titles)]


def files(figure: Figure) -> dict[str, bytes]:
    """The figure as PNG and SVG, without a date."""
    found = {}
    for ending, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
        buffer = BytesIO()
        figure.savefig(buffer, format=ending, dpi=DOTS_PER_INCH, metadata=metadata)
        found[ending] = buffer.getvalue()
    return found


def plain_numbers(axis: Axis) -> None:
    """A logarithmic axis whose marks are numbers, not powers."""
    axis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axis.set_minor_formatter(NullFormatter())


def wrapped(text: str, width: int = 38) -> str:
    """On lines that fit a panel of half the paper's width."""
    return "\n".join(textwrap.wrap(text, width))


def look(position: int) -> dict[str, Any]:
    """Colour, marker and line of the n-th of several: each alone tells it apart, as far as there are enough."""
    return {
        "color": COLOURS[position % len(COLOURS)],
        "marker": MARKERS[position % len(MARKERS)],
        "linestyle": LINES[position % len(LINES)],
    }


def percent_axis(axes: Axes, label: str = "test accuracy (%)") -> None:
    axes.set_ylim(-2, 102)
    axes.set_yticks(range(0, 101, 20))
    axes.set_ylabel(label)


def legend_above(figure: Figure, axes: Axes) -> None:
    """The labels of ``axes``; the figure grows by the lines that they take beyond the first."""
    handles, labels = axes.get_legend_handles_labels()
    more = (len(labels) - 1) // LEGEND_COLUMNS
    figure.set_figheight(figure.get_figheight() + LEGEND_LINE * more)
    figure.legend(handles, labels, loc="outside upper center", ncols=LEGEND_COLUMNS)
