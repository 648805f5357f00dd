"""Class counts of a long-tailed training set, by shot group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from csa.figures.style import COLOURS, canvas, plain_numbers, shared_legend

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANEL_HEIGHT = 1.7
HATCHES = ("", "////", "\\\\\\\\")
FEW_CLASSES = 12  # up to so many bars are numbered and carry their count


@dataclass(frozen=True)
class Counts:
    """Training images of each class [K], and the class indices of each shot group."""

    name: str
    counts: Sequence[int]
    groups: dict[str, Sequence[int]]


def draw(sets: Sequence[Counts]) -> Figure:
    figure, axes = canvas(0.5 + PANEL_HEIGHT * len(sets), len(sets))
    for one, counts in zip(axes[:, 0], sets, strict=True):
        _panel(one, counts)
    axes[-1, 0].set_xlabel("class, most training images first")
    shared_legend(figure, list(axes[:, 0]))
    return figure


def _panel(axes: Axes, counts: Counts) -> None:
    order = sorted(range(len(counts.counts)), key=lambda k: -counts.counts[k])
    rank = {k: place for place, k in enumerate(order)}
    width = 0.8 if len(order) <= FEW_CLASSES else 1.0
    for place, (group, members) in enumerate(counts.groups.items()):
        bars = axes.bar(
            [rank[k] for k in members],
            [counts.counts[k] for k in members],
            width,
            label=group,
            color=COLOURS[place],
            hatch=HATCHES[place] if len(order) <= FEW_CLASSES else "",
            edgecolor="white",
            linewidth=0.3,
        )
        if len(order) <= FEW_CLASSES:
            axes.bar_label(bars, fontsize=6, padding=1)
    axes.set_yscale("log")
    plain_numbers(axes.yaxis)
    axes.set_ylim(bottom=0.7, top=2.5 * max(counts.counts))
    axes.set_ylabel("training images\n(log scale)")
    axes.grid(axis="x", visible=False)
    axes.set_title(f"{counts.name}: {sum(counts.counts):,} images of {len(counts.counts)} classes", loc="left")
    if len(order) <= FEW_CLASSES:
        axes.set_xticks(range(len(order)), [str(k) for k in order])
