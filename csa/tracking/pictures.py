"""Pictures of a finished run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure

MOST_NAMES = 30  # up to so many, classes are named on the axes; up to half as many, cells hold their percentage
NUMBERED_EVERY = 10


def confusion_picture(confusion: np.ndarray, classes: Sequence[str], title: str) -> Figure:
    """A confusion matrix [K, K] of counts (rows: labels, columns: predictions), each row as shares of its images.

    classes: names in the order of the rows, most training images first.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    number = len(classes)
    side = min(4 + 0.35 * number, 10)
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    # The root of the share: a few percent of confusions must be seen beside a full diagonal.
    image = axes.imshow(np.sqrt(shares), cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    bar = figure.colorbar(image, ax=axes, shrink=0.8, label="share of the class's images")
    bar.set_ticks([share**0.5 for share in (0, 0.05, 0.25, 0.5, 1)], labels=["0 %", "5 %", "25 %", "50 %", "100 %"])
    if number <= MOST_NAMES:
        names = [name if len(name) <= 14 else name[:13] + "…" for name in classes]
        axes.set_xticks(range(number), names, rotation=60, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(number), names)
    else:
        axes.set_xticks(range(0, number, NUMBERED_EVERY))
        axes.set_yticks(range(0, number, NUMBERED_EVERY))
    if number <= MOST_NAMES // 2:
        for row, column in np.argwhere(confusion > 0):
            share = shares[row, column]
            colour = "white" if share > 0.4 else "black"
            axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=8, color=colour)
    axes.set(title=title, xlabel="predicted class", ylabel="class, most training images first")
    return figure
