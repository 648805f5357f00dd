"""Training curves: test accuracy after every epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from csa.figures.panels import draw_panels
from csa.figures.style import percent_axis

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from csa.figures.store import Panel
    from csa.reporting.runs import Run

FEW_EPOCHS = 20  # up to so many every epoch has its marker


def draw(panels: Sequence[Panel]) -> Figure:
    """The mean over seeds, and from the lowest to the highest seed as a band."""
    return draw_panels(panels, _panel, "epoch (of all stages)")


def _panel(axes: Axes, panel: Panel, looks: dict[str, dict[str, Any]]) -> None:
    for method, runs in panel.methods.items():
        curves = [accuracy_curve(run) for run in runs]
        length = min(map(len, curves))
        values = np.array([curve[:length] for curve in curves])
        epochs = np.arange(1, length + 1)
        every = 1 if length <= FEW_EPOCHS else length // 10
        axes.plot(epochs, values.mean(0), label=method, markevery=every, **looks[method])
        axes.fill_between(epochs, values.min(0), values.max(0), color=looks[method]["color"], alpha=0.15, linewidth=0)
    percent_axis(axes)
    axes.set_xlim(left=0)


def accuracy_curve(run: Run) -> list[float]:
    """Accuracy of all classes under the head that stands for the run, in percent."""
    head = run.head()
    return [float(line["heads"][head]["all"]) for line in run.evidence.metrics()]
