"""Figures over the classes of a data set: accuracy of each, confusions, training images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from csa.figures.panel import shade_groups
from csa.figures.style import (
    COLOURS,
    MOST_TOGETHER,
    canvas,
    legend_above,
    percent_axis,
    plain_numbers,
    tiles,
    wrapped,
)
from csa.metrics import by_size

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from csa.figures.panel import Line, Panel

FEW_CLASSES = 12  # up to so many are named one by one
MOST_MARKED = 20  # more classes than that are a running mean over their neighbours in rank
WINDOW = 9
CLASSES = "training images of the class, most first"
HATCHES = ("", "////", "\\\\\\\\", "xxxx")
ROOM = 0.8  # share of a class's room that bars take
PLAIN = "#555555"  # of no method
SPREAD = {"elinewidth": 0.7, "capsize": 1.5}


def spread(values: np.ndarray) -> np.ndarray:
    """[2, K]: below and above the mean over seeds a sample standard deviation, as far as there are such percentages."""
    centre = values.mean(0)
    deviation = values.std(0, ddof=1) if len(values) > 1 else np.zeros_like(centre)
    return np.stack([np.minimum(deviation, centre), np.minimum(deviation, 100 - centre)])


def as_differences(shown: Panel) -> bool:
    """Whether there are too many classes to tell methods apart by their accuracies."""
    return len(shown.order) > MOST_MARKED and shown.has_baseline and len(shown.lines) > 1


def per_class(shown: Panel) -> Figure:
    """A point a class, mean and deviation over seeds; of many classes a running mean of differences to the baseline."""
    if as_differences(shown) and len(shown.lines) > MOST_TOGETHER:
        return _tiled_differences(shown)
    figure, axes = canvas(2.6)
    one, order = axes[0, 0], shown.order
    shade_groups(one, shown.order, shown.split["by_rank"])
    many = len(order) > MOST_MARKED
    base = shown.lines[0].per_class(order).mean(0) if as_differences(shown) else None
    for position, line in enumerate(shown.lines if base is None else shown.lines[1:]):
        values, x = line.per_class(order), np.arange(len(order))
        if many:
            means = values.mean(0) - (0 if base is None else base)
            one.plot(
                x, smoothed(list(means)), label=line.label, color=line.look["color"], linestyle=line.look["linestyle"]
            )
        else:
            beside = (position - (len(shown.lines) - 1) / 2) * min(0.12, ROOM / len(shown.lines))
            one.errorbar(x + beside, values.mean(0), spread(values), label=line.label, **line.look, **SPREAD)
    if base is None:
        percent_axis(one)
    else:
        one.axhline(0, color="#666666", linewidth=0.8)
        one.set_ylabel(f"accuracy minus {shown.lines[0].name}\n(points)")
    _name_classes(one, shown)
    legend_above(figure, one)
    return figure


def _tiled_differences(shown: Panel) -> Figure:
    base, lines, order = shown.lines[0], shown.lines[1:], shown.order
    figure, axes = tiles([line.label for line in lines], CLASSES, f"accuracy minus {base.name} (points)")
    for one, line in zip(axes, lines, strict=True):
        means = line.per_class(order).mean(0) - base.per_class(order).mean(0)
        one.axhline(0, color="#666666", linewidth=0.8)
        one.plot(range(len(order)), smoothed(list(means)), color=line.look["color"])
        shade_groups(one, order, shown.split["by_rank"], named=False)
        _name_classes(one, shown, marks=3)
        one.set_xlabel("")
    return figure


def _name_classes(axes: Axes, shown: Panel, marks: int = 6) -> None:
    split, order = shown.split, shown.order
    axes.grid(axis="x", visible=False)
    if len(order) <= FEW_CLASSES:
        axes.set_xticks(range(len(order)), [f"{short(split['classes'][k])}\n{split['counts'][k]}" for k in order])
        axes.set_xlabel("class, most training images first (their number below)")
        return
    positions = np.linspace(0, len(order) - 1, marks).round().astype(int)
    axes.set_xticks(positions, [str(split["counts"][order[position]]) for position in positions])
    axes.set_xlabel(CLASSES)


def short(name: str, most: int = 10) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"


def smoothed(values: Sequence[float]) -> list[float]:
    """Mean over up to nine neighbours, fewer at the ends; classes without test images do not count."""
    half = WINDOW // 2
    parts = [np.array(values[max(0, position - half) : position + half + 1]) for position in range(len(values))]
    return [float(np.nanmean(part)) if np.isfinite(part).any() else float("nan") for part in parts]


def bars(panels: Sequence[Panel]) -> Figure:
    """Figure 4: a panel a data set; a bar a line, its whisker the sample standard deviation over seeds."""
    figure, axes = canvas(0.3 + 1.95 * len(panels), len(panels))
    for one, shown in zip(axes[:, 0], panels, strict=True):
        shade_groups(one, shown.order, shown.split["by_rank"])
        width, order = ROOM / len(shown.lines), shown.order
        for position, line in enumerate(shown.lines):
            values, colour = line.per_class(order), line.look["color"]
            x = np.arange(len(order)) - ROOM / 2 + (position + 0.5) * width
            one.bar(
                x,
                np.nan_to_num(values.mean(0)),
                width,
                yerr=np.nan_to_num(spread(values)),
                label=line.label,
                color=colour,
                hatch=HATCHES[COLOURS.index(colour) % len(HATCHES)],
                edgecolor="white",
                linewidth=0.3,
                error_kw=SPREAD,
            )
        one.set_title(wrapped(shown.title, 86), loc="left", pad=25)
        _name_classes(one, shown)
        percent_axis(one, "accuracy (%)")
        one.legend(loc="lower left", bbox_to_anchor=(0, 1.08), ncols=len(shown.lines), borderaxespad=0)
    return figure


def confusion(shown: Panel) -> Figure:
    """A panel a line: of the images of each class (rows) the share that is taken for each class, mean over seeds."""
    columns = min(3, len(shown.lines))
    rows = -(-len(shown.lines) // columns)
    figure, axes = canvas(0.3 + rows * (0.4 + 3.9 / max(columns, 2)), rows, columns)
    for one, line in zip(axes.flat, shown.lines, strict=False):
        image = one.imshow(mean_confusion(line), cmap="cividis", vmin=0, vmax=100, interpolation="nearest")
        one.set_title(line.label, loc="left")
        one.grid(visible=False)
        if len(shown.order) <= FEW_CLASSES:
            names = [short(shown.split["classes"][k], 6) for k in shown.order]
            one.set_xticks(range(len(names)), names, rotation=90)
            one.set_yticks(range(len(names)), names)
    for one in axes.flat[len(shown.lines) :]:
        one.set_visible(False)
    for one in axes[:, 0]:
        one.set_ylabel("class")
    figure.supxlabel("predicted class, most training images first", fontsize=8)
    figure.colorbar(image, ax=axes, shrink=0.6, pad=0.01, label="images of the class (%)")
    return figure


def mean_confusion(line: Line) -> np.ndarray:
    """[K, K], percent of the images of each class, the largest class first, mean over seeds."""
    counts = [run.confusion(head).to_numpy() for run, head in line.with_heads()]
    fractions = [100 * one / np.maximum(one.sum(1, keepdims=True), 1) for one in counts]
    found: np.ndarray = np.mean(fractions, axis=0)
    return found


def counts(title: str, names: Sequence[str], numbers: Sequence[int], groups: Mapping[str, Sequence[int]]) -> Figure:
    """Training images of each class [K]; groups: of each shot group the class indices."""
    figure, axes = canvas(2.0)
    one, order = axes[0, 0], by_size(numbers)
    few = len(order) <= FEW_CLASSES
    shade_groups(one, order, groups)
    drawn = one.bar(range(len(order)), [numbers[k] for k in order], ROOM if few else 1.0, color=PLAIN)
    one.set_yscale("log")
    plain_numbers(one.yaxis)
    one.set_ylim(bottom=0.7, top=2.5 * max(numbers))
    one.set_ylabel("training images\n(log scale)")
    one.set_xlabel("class, most training images first")
    one.grid(axis="x", visible=False)
    one.set_title(wrapped(f"{title}: {sum(numbers):,} images of {len(numbers)} classes", 86), loc="left", pad=12)
    if few:
        one.bar_label(drawn, fontsize=6, padding=1)
        one.set_xticks(range(len(order)), [short(names[k]) for k in order])
    return figure
