"""Figure 4: accuracy of each class under CE, cRT and CB-RS, in black and white and in colour."""

from __future__ import annotations

from statistics import fmean, stdev
from typing import TYPE_CHECKING

from csa.figures.store import several
from csa.figures.style import COLOURS, canvas, percent_axis, shared_legend, wrapped

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from csa.figures.store import Panel
    from csa.reporting.runs import Run

HATCHES = ("", "////", "\\\\\\\\", "xxxx")
GROUP = 0.8  # share of a class's room that its bars take
PANEL_HEIGHT = 1.55
WIDE = 86  # letters over a panel of the paper's whole width


def draw(panels: Sequence[Panel]) -> Figure:
    """A panel a data set; a bar a method, its whisker the sample standard deviation over seeds."""
    figure, axes = canvas(0.5 + PANEL_HEIGHT * len(panels), len(panels))
    methods = several(panels)
    for one, panel in zip(axes[:, 0], panels, strict=True):
        _panel(one, panel, methods)
    axes[-1, 0].set_xlabel("class, most training images first (number of training images below)")
    shared_legend(figure, list(axes[:, 0]))
    return figure


def _panel(axes: Axes, panel: Panel, methods: Sequence[str]) -> None:
    split = panel.runs[0].result["split"]
    order = sorted(range(len(split["counts"])), key=lambda k: -split["counts"][k])
    width = GROUP / len(methods)
    for place, method in enumerate(methods):
        if method not in panel.methods:
            continue
        rows = [_per_class(run) for run in panel.methods[method]]
        values = [[row[k] for row in rows] for k in order]
        axes.bar(
            [position - GROUP / 2 + (place + 0.5) * width for position in range(len(order))],
            [fmean(value) for value in values],
            width,
            yerr=[*zip(*(_whiskers(value) for value in values), strict=True)],
            label=method,
            color=COLOURS[place % len(COLOURS)],
            hatch=HATCHES[place % len(HATCHES)],
            edgecolor="white",
            linewidth=0.3,
            error_kw={"elinewidth": 0.7, "capsize": 1.5},
        )
    seeds = sorted({len(runs) for runs in panel.methods.values()})
    several_seeds = f"{' or '.join(map(str, seeds))} seed{'s' if seeds != [1] else ''}"
    title = "; ".join([panel.name, several_seeds, *_collapsed(panel)])
    axes.set_title(wrapped(title, WIDE), loc="left")
    axes.set_xticks(range(len(order)), [f"{split['classes'][k]}\n{split['counts'][k]}" for k in order])
    axes.grid(axis="x", visible=False)
    percent_axis(axes, "accuracy (%)")


def _collapsed(panel: Panel) -> list[str]:
    """What a reader of a low bar must know."""
    counts = {method: sum(bool(run.result["collapsed"]) for run in runs) for method, runs in panel.methods.items()}
    named = [f"{method} {count} of {len(panel.methods[method])}" for method, count in counts.items() if count]
    return [f"collapsed: {', '.join(named)}"] if named else []


def _whiskers(values: Sequence[float]) -> tuple[float, float]:
    """Below and above the mean: a standard deviation, as far as there are such percentages."""
    centre, spread = fmean(values), stdev(values) if len(values) > 1 else 0.0
    return min(spread, centre), min(spread, 100 - centre)


def _per_class(run: Run) -> list[float]:
    """A class without test images counts as none right."""
    return [value or 0.0 for value in run.result["heads"][run.head()]["last"]["per_class"]]
