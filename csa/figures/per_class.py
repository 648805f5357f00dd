"""Accuracy of each class over how many training images it has."""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING

from csa.figures.panels import draw_panels
from csa.figures.style import percent_axis, plain_numbers

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from csa.figures.store import Panel

MOST_MARKED = 20  # more classes than that are drawn as a running mean over their neighbours in rank
WINDOW = 9


def draw(panels: Sequence[Panel]) -> Figure:
    """A point a class, mean over seeds."""
    return draw_panels(panels, _panel, "training images of the class (log scale)")


def _panel(axes: Axes, panel: Panel, looks: dict[str, dict[str, Any]]) -> None:
    for method, runs in panel.methods.items():
        counts = runs[0].result["split"]["counts"]
        per_class = [run.result["heads"][run.head()]["last"]["per_class"] for run in runs]
        known = [k for k in range(len(counts)) if all(row[k] is not None for row in per_class)]
        known.sort(key=lambda k: -counts[k])
        x = [counts[k] for k in known]
        y = [fmean(row[k] for row in per_class) for k in known]
        if len(known) > MOST_MARKED:
            colour = looks[method]["color"]
            axes.plot(x, y, linestyle="none", marker=looks[method]["marker"], color=colour, markersize=1.5, alpha=0.4)
            axes.plot(x, smoothed(y), color=colour, linestyle=looks[method]["linestyle"], label=method)
        else:
            axes.plot(x, y, label=method, **looks[method])
    axes.set_xscale("log")
    plain_numbers(axes.xaxis)
    axes.invert_xaxis()
    percent_axis(axes)


def smoothed(values: Sequence[float]) -> list[float]:
    """Mean over up to nine neighbours, fewer at the ends."""
    half = WINDOW // 2
    return [fmean(values[max(0, place - half) : place + half + 1]) for place in range(len(values))]
