"""Figures of what the runs of a table reached: differences to the baseline, curves, calibration, thresholds."""

from __future__ import annotations

from itertools import takewhile
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from csa.figures.style import MOST_TOGETHER, canvas, legend_above, look, plain_numbers, tiles
from csa.metrics import PARTS, calibration_bins

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from csa.figures.panel import Line, Panel
    from csa.tracking.run import Run

MOST_MARKERS = 12  # on a curve
BESIDE = 3.6  # inches: it stands beside its table
LATE = 0.2  # share of a run's epochs, the last ones, that decide what is in view


def forest(shown: Panel) -> Figure:
    """A row a line: its difference to the baseline, every pair of seeds, the mean and its 95 % interval."""
    figure, axes = canvas(0.7 + 0.24 * len(shown.lines))
    figure.set_figwidth(BESIDE)
    one, base = axes[0, 0], shown.lines[0]
    theirs = {(run.seed, run.split): run.scores(head=head)["all"] for run, head in base.with_heads()}
    one.axvline(0, color="#666666", linewidth=0.8)
    for position, (line, numbers) in enumerate(zip(shown.lines[1:], shown.data.iloc[1:].itertuples(), strict=True)):
        colour = line.look["color"]
        pairs = [(run.scores(head=head)["all"], (run.seed, run.split)) for run, head in line.with_heads()]
        points = [value - theirs[key] for value, key in pairs if key in theirs]
        one.scatter(points, [position] * len(points), s=9, color=colour, alpha=0.35, linewidths=0)
        half = [[numbers.difference_half]] if np.isfinite(numbers.difference_half) else None
        if np.isfinite(numbers.difference):
            one.errorbar(
                [numbers.difference],
                [position],
                xerr=half,
                fmt=line.look["marker"],
                color=colour,
                capsize=2.5,
                markersize=5,
            )
    one.set_yticks(range(len(shown.lines) - 1), [line.name for line in shown.lines[1:]])
    one.set_ylim(len(shown.lines) - 1.5, -0.5)
    one.grid(axis="y", visible=False)
    one.set_xlabel(f"accuracy minus that of {base.name} (points)")
    return figure


# --- curves ---------------------------------------------------------------------------------


Courses = dict[tuple[int, str], list[tuple[float, float]]]
"""Of each run of a line, by seed and split, training loss and test accuracy of every epoch."""


def course(run: Run, head: str) -> list[tuple[float, float]]:
    """The loss tells which epochs two runs share: accuracies are equal by chance.

    Empty of a head that is computed after training: it was evaluated once, at the end.
    """
    lines = run.metrics()
    trained = all(head in line["heads"] for line in lines)
    return [(line["loss"], float(line["heads"][head]["all"])) for line in lines] if trained else []


def curves(shown: Panel) -> Figure | None:
    """The mean over seeds, and from the lowest to the highest seed as a band; a first stage that lines share is
    drawn once. Many lines have a tile each, the first of them in grey behind it. None where no run has a curve.
    """
    courses = [_courses(line) for line in shown.lines]
    trained = [(line, found) for line, found in zip(shown.lines, courses, strict=True) if found]
    if not trained:
        return None
    across, up = "epoch (of all stages)", "test accuracy (%)"
    tiled = len(trained) > MOST_TOGETHER
    if tiled:
        figure, panels = tiles([line.label for line, _ in trained], across, up)
    else:
        figure, axes = canvas(2.4)
        panels = [axes[0, 0]] * len(trained)
    drawn, values = list[Courses](), list[np.ndarray]()
    for one, (line, found) in zip(panels, trained, strict=True):
        length = min(map(len, found.values()))
        shared = max((_shared(found, other) for other in drawn), default=0)
        start = shared - 1 if 0 < shared < length and not tiled else 0
        drawn.append(found)
        values.append(np.array([epochs[:length] for epochs in found.values()], dtype=np.float64)[:, :, 1])
        if tiled:
            one.plot(range(1, values[0].shape[1] + 1), values[0].mean(0), color="#bbbbbb")
        _curve(one, line, values[-1], start, {"color": line.look["color"]} if tiled else line.look)
    _crop(panels[0], values)
    if not tiled:
        panels[0].set_xlabel(across)
        panels[0].set_ylabel(up)
        legend_above(figure, panels[0])
    return figure


def _courses(line: Line) -> Courses:
    courses = {(run.seed, run.split): course(run, head) for run, head in line.with_heads()}
    return {key: epochs for key, epochs in courses.items() if epochs}


def _curve(axes: Axes, line: Line, values: np.ndarray, start: int, drawn_as: Mapping[str, Any]) -> None:
    """values: [seeds, epochs], drawn from the epoch at ``start`` on."""
    seeds, length = values.shape
    epochs, later = np.arange(start + 1, length + 1), values[:, start:]
    every = max(1, len(epochs) // MOST_MARKERS)
    axes.plot(epochs, later.mean(0), label=line.label, markevery=every, **drawn_as)
    if seeds > 1:
        colour = line.look["color"]
        axes.fill_between(epochs, later.min(0), later.max(0), color=colour, alpha=0.12, linewidth=0)


def _shared(ours: Courses, theirs: Courses) -> int:
    """How many epochs each of our runs begins with as theirs of the same seed does; 0 where such a run is missing."""
    if not ours.keys() <= theirs.keys():
        return 0
    return min(_same(epochs, theirs[key]) for key, epochs in ours.items())


def _same(first: Sequence[object], second: Sequence[object]) -> int:
    """How many both begin with."""
    return len(list(takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False))))


def _crop(axes: Axes, values: list[np.ndarray]) -> None:
    """To where the curves end: what lies far below leaves the picture, with the epochs before a mean stays in it."""
    late = [one[:, int((1 - LATE) * one.shape[1]) :] for one in values]
    ends = np.concatenate([one.mean(0) for one in late])
    room = max(1.0, float(np.ptp(ends)))
    low = max(-2.0, float(ends.min()) - room / 2)
    axes.set_ylim(low, min(102, max(float(one.max()) for one in late) + room / 10))
    below = [np.flatnonzero(one.mean(0) < low) for one in values]
    first = min(int(one[-1]) + 1 if len(one) else 0 for one in below)
    axes.set_xlim(first + 0.5, max(one.shape[1] for one in values) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 2.5, 5, 10], integer=True))


# --- calibration ----------------------------------------------------------------------------


def reliability(shown: Panel) -> Figure | None:
    """Share of right images over mean confidence, in bins of equal width, all seeds together; below the number of
    images in each bin. None where no run has its logits.
    """
    figure, axes = canvas(3.2, 2, 1, sharex=True, height_ratios=(3, 1))
    (one,), (below,) = axes
    one.plot([0, 100], [0, 100], color="#666666", linewidth=0.8, linestyle=":", label="perfectly calibrated")
    drawn = False
    for line in shown.lines:
        found = [(run, head) for run, head in line.with_heads() if run.has_logits]
        if not found:
            continue
        pairs = [confidences(run, head) for run, head in found]
        confidence, right = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
        x, y, sizes = binned(confidence, right)
        ece = np.mean([run.scores("last", head)["ece"] for run, head in found])
        one.plot(100 * x, 100 * y, label=f"{line.name}, ECE {ece:.1f}", **line.look)
        below.plot(100 * x, sizes, **line.look)
        drawn = True
    one.set_xlim(0, 100)
    one.set_ylim(-2, 102)
    one.set_ylabel("right images (%)")
    below.set_ylabel("images")
    below.set_yscale("log")
    plain_numbers(below.yaxis)
    below.set_xlabel("confidence (%)")
    legend_above(figure, one)
    return figure if drawn else None


def confidences(run: Run, head: str) -> tuple[np.ndarray, np.ndarray]:
    """Probability of the predicted class [N] and whether it is right [N]."""
    return run.confidence(head), run.predictions(head) == run.labels


def binned(confidence: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean confidence, share of right ones and number of images of each bin that holds any."""
    bins = calibration_bins((PARTS * confidence).astype(np.int64))
    sizes = np.bincount(bins)
    held = sizes > 0
    mean = np.bincount(bins, weights=confidence)[held] / sizes[held]
    fraction = np.bincount(bins, weights=right)[held] / sizes[held]
    return mean, fraction, sizes[held]


# --- the threshold of CSA -------------------------------------------------------------------


def thresholds(shown: Panel) -> list[tuple[float, Line]]:
    """Lines of CSA that differ in delta alone, by delta."""
    found = []
    for line, numbers in zip(shown.lines, shown.data.itertuples(), strict=True):
        others = [word for word in numbers.settings.split() if not word.startswith(("delta=", "protocol", "dataset."))]
        delta = line.runs[0].identity["method"].get("delta")
        if numbers.method == "csa" and not others and delta is not None:
            found.append((float(delta), line))
    return sorted(found, key=lambda pair: pair[0])


def delta(shown: Panel, published: pd.DataFrame) -> Figure:
    """Accuracy over the threshold, published and measured, with every seed. published: cells with delta and value."""
    figure, axes = canvas(2.6)
    one, found = axes[0, 0], thresholds(shown)
    if len(published):
        one.plot(published["delta"], published["value"], label="published", **look(6))
    for position, (label, rule) in enumerate((("best on test", "best_on_test"), ("last epoch", "last"))):
        values = [(delta, [run.scores(rule, head)["all"] for run, head in line.with_heads()]) for delta, line in found]
        mean = ", mean of seeds" if any(len(seeds) > 1 for _, seeds in values) else ""
        one.plot(
            [delta for delta, _ in values],
            [np.mean(seeds) for _, seeds in values],
            label=f"measured, {label}{mean}",
            **look(position),
        )
        points = [(delta, value) for delta, seeds in values for value in seeds]
        one.scatter(*zip(*points, strict=True), s=8, color=look(position)["color"], alpha=0.45, linewidths=0)
    one.set_xlabel("threshold δ (probability)")
    one.set_ylabel("test accuracy (%)")
    legend_above(figure, one)
    return figure
