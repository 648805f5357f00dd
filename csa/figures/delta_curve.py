"""The curve of Table 5: accuracy over the threshold delta, published and measured, with every seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from csa.figures.style import canvas, look

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Point:
    """Accuracies in percent at one delta; of the last epoch and best on test, one a seed."""

    delta: float
    published: float | None
    last: Sequence[float]
    best: Sequence[float]


def draw(points: Sequence[Point], name: str) -> Figure:
    figure, axes = canvas(2.6)
    one = axes[0, 0]
    known = [point for point in points if point.published is not None]
    if known:
        one.plot([point.delta for point in known], [point.published for point in known], label="published", **look(6))
    for place, (label, values) in enumerate(
        (
            ("measured, best on test", [(point.delta, point.best) for point in points]),
            ("measured, last epoch", [(point.delta, point.last) for point in points]),
        )
    ):
        run = [(delta, found) for delta, found in values if found]
        if not run:
            continue
        means = [sum(found) / len(found) for _, found in run]
        one.plot([delta for delta, _ in run], means, label=f"{label}, mean of seeds", **look(place))
        seeds = [(delta, value) for delta, found in run for value in found]
        one.scatter(*zip(*seeds, strict=True), s=8, color=look(place)["color"], alpha=0.45, linewidths=0)
    one.set_xlabel("threshold δ (probability)")
    one.set_ylabel("test accuracy (%)")
    one.set_title(name, loc="left")
    figure.legend(loc="outside upper center", ncols=3)
    return figure
