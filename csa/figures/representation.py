"""Figures 2 and 10: the features of training and test set, in two dimensions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from csa.figures.style import COLOURS, MARKERS, canvas, files, style
from csa.reporting.layout import Drawn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_CLASSES = 10
PER_CLASS = 60
PANEL_HEIGHT = 2.3
LABEL_WIDTH, LABEL_HEIGHT = 0.06, 0.07  # of a panel
MOST_ROUNDS = 200


@dataclass(frozen=True)
class Cloud:
    """name: of the method and part; points: [N, 2]; labels: [N]."""

    name: str
    points: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Representation:
    """rows: of each method the clouds of its training and its test set; classes: those shown, by rank of size;
    names: of all classes; axis: what the two dimensions are.
    """

    rows: Sequence[Sequence[Cloud]]
    classes: Sequence[int]
    names: Sequence[str]
    axis: str


def drawn_representation(name: str, caption: str, fingerprints: Sequence[str], shown: Representation) -> Drawn:
    with style():
        return Drawn(name, caption, caption, files(draw(shown)), tuple(fingerprints))


def draw(shown: Representation) -> Figure:
    """A row a method, training set left and test set right; each class named at the median of its points."""
    classes, names = shown.classes, shown.names
    figure, axes = canvas(0.4 + PANEL_HEIGHT * len(shown.rows), len(shown.rows), 2)
    for row, clouds in zip(axes, shown.rows, strict=True):
        for one, cloud in zip(row, clouds, strict=True):
            _panel(one, cloud, classes)
            one.set_title(cloud.name, loc="left")
            one.set_xlabel(f"{shown.axis} 1")
            one.set_ylabel(f"{shown.axis} 2")
    handles = [axes[0, 0].plot([], [], linestyle="none", **_look(place))[0] for place in range(len(classes))]
    labels = [str(k) if names[k] == str(k) else f"{k} {names[k]}" for k in classes]
    figure.legend(handles, labels, loc="outside lower center", ncols=5, title="class, most training images first")
    return figure


def _look(place: int) -> dict[str, Any]:
    return {"color": (*COLOURS, "#7A5C00", "#4B0092")[place % 10], "marker": MARKERS[place % len(MARKERS)]}


def _panel(axes: Axes, cloud: Cloud, classes: Sequence[int]) -> None:
    for place, k in enumerate(classes):
        points = cloud.points[cloud.labels == k]
        if len(points):
            axes.scatter(points[:, 0], points[:, 1], s=4, alpha=0.5, linewidths=0, rasterized=True, **_look(place))
    there = [k for k in classes if (cloud.labels == k).any()]
    centres = np.array([np.median(cloud.points[cloud.labels == k], 0) for k in there])
    low, high = cloud.points.min(0), cloud.points.max(0)
    room = np.where(high > low, high - low, 1.0)
    box = {"boxstyle": "round,pad=0.12", "facecolor": "white", "alpha": 0.75, "linewidth": 0}
    for k, place in zip(there, apart((centres - low) / room) * room + low, strict=True):
        axes.annotate(str(k), place, fontsize=6.5, ha="center", va="center", bbox=box)


def apart(places: np.ndarray) -> np.ndarray:
    """Labels [N, 2] in the unit square, those that would cover each other moved apart upwards and downwards."""
    moved = places.copy()
    for _ in range(MOST_ROUNDS):
        order = np.argsort(moved[:, 1], kind="stable")
        touched = False
        for rank, lower in enumerate(order):
            for upper in order[rank + 1 :]:
                gap = LABEL_HEIGHT - (moved[upper, 1] - moved[lower, 1])
                if abs(moved[upper, 0] - moved[lower, 0]) < LABEL_WIDTH and gap > 1e-9:
                    moved[lower, 1] -= gap / 2
                    moved[upper, 1] += gap / 2
                    touched = True
        if not touched:
            break
    return moved


def shown_classes(counts: Sequence[int]) -> list[int]:
    """All, or ten evenly over the ranks of class size, the largest and the smallest among them."""
    order = sorted(range(len(counts)), key=lambda k: -counts[k])
    places = np.linspace(0, len(order) - 1, min(MOST_CLASSES, len(order))).round().astype(int)
    return [order[place] for place in places]


def sample(labels: np.ndarray, classes: Sequence[int], most: int = PER_CLASS) -> np.ndarray:
    """Positions of up to ``most`` images of each class, the first ones."""
    return np.concatenate([np.flatnonzero(labels == k)[:most] for k in classes])


def in_two_dimensions(parts: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Features of several parts [N, F], each [N, 2]: the feature itself where it is 2-d, else one t-SNE of all."""
    if parts[0].shape[1] == 2:
        return list(parts)
    from sklearn.manifold import TSNE

    together = np.concatenate(parts)
    perplexity = min(30.0, (len(together) - 1) / 3)
    flat = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(together)
    return np.split(flat, np.cumsum([len(part) for part in parts])[:-1])
