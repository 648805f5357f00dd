"""Figures 2 and 10: the features of training and test set, in two dimensions; drawn from networks or from kept points.

Networks are in no exported record; the points are kept beside those of their runs, so that a report draws the figure
where neither network nor images are. The same points give the same picture.

    <records>/points/<figure>.npz    points_<n> [N, 2] and labels_<n> [N] of every cloud; the words around them
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np

from csa.config.faults import Fault, UserError
from csa.figures.networks import features, load_models, named_runs, shown_classes
from csa.figures.style import COLOURS, MARKERS, canvas, files, style
from csa.reporting.layout import Drawn, printed
from csa.tracking.exported import exported_paths
from csa.tracking.files import UNREADABLE, npz, write_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from csa.config.schema import Config
    from csa.tracking.run import Run

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
        return Drawn(name, caption, files(draw(shown)), tuple(fingerprints))


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
    handles = [axes[0, 0].plot([], [], linestyle="none", **_look(position))[0] for position in range(len(classes))]
    labels = [str(k) if names[k] == str(k) else f"{k} {names[k]}" for k in classes]
    figure.legend(handles, labels, loc="outside lower center", ncols=5, title="class, most training images first")
    return figure


def _look(position: int) -> dict[str, Any]:
    return {"color": (*COLOURS, "#7A5C00", "#4B0092")[position % 10], "marker": MARKERS[position % len(MARKERS)]}


def _panel(axes: Axes, cloud: Cloud, classes: Sequence[int]) -> None:
    for position, k in enumerate(classes):
        points = cloud.points[cloud.labels == k]
        if len(points):
            axes.scatter(points[:, 0], points[:, 1], s=4, alpha=0.5, linewidths=0, rasterized=True, **_look(position))
    there = [k for k in classes if (cloud.labels == k).any()]
    centres = np.array([np.median(cloud.points[cloud.labels == k], 0) for k in there])
    low, high = cloud.points.min(0), cloud.points.max(0)
    room = np.where(high > low, high - low, 1.0)
    box = {"boxstyle": "round,pad=0.12", "facecolor": "white", "alpha": 0.75, "linewidth": 0}
    for k, position in zip(there, apart((centres - low) / room) * room + low, strict=True):
        axes.annotate(str(k), position, fontsize=6.5, ha="center", va="center", bbox=box)


def apart(positions: np.ndarray) -> np.ndarray:
    """Labels [N, 2] in the unit square, those that would cover each other moved apart upwards and downwards."""
    moved = positions.copy()
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


def sample(labels: np.ndarray, classes: Sequence[int], most: int = PER_CLASS) -> np.ndarray:
    """Positions of up to ``most`` images of each class, the first ones."""
    return np.concatenate([np.flatnonzero(labels == k)[:most] for k in classes])


def in_two_dimensions(parts: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Features of several parts [N, F], each [N, 2]: the feature itself where it is 2-d, else one t-SNE of all."""
    if parts[0].shape[1] == 2:
        return list(parts)
    from sklearn.manifold import TSNE

    joined = np.concatenate(parts)
    perplexity = min(30.0, (len(joined) - 1) / 3)
    flat = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(joined)
    return np.split(flat, np.cumsum([len(part) for part in parts])[:-1])


# --- their points ---------------------------------------------------------------------------

FOLDER = "points"
SCHEMA = 1


def packed(shown: Representation, caption: str, fingerprints: Sequence[str]) -> bytes:
    """An ``.npz`` file from which ``drawn_from_points`` draws the figure again."""
    about = {
        "schema": SCHEMA,
        "caption": caption,
        "fingerprints": fingerprints,
        "rows": [[cloud.name for cloud in row] for row in shown.rows],
        "classes": shown.classes,
        "names": shown.names,
        "axis": shown.axis,
    }
    arrays: dict[str, Any] = {"about": np.frombuffer(json.dumps(about, sort_keys=True).encode(), dtype=np.uint8)}
    for number, cloud in enumerate(cloud for row in shown.rows for cloud in row):
        arrays |= {f"points_{number}": cloud.points, f"labels_{number}": cloud.labels}
    return npz(**arrays)


def keep(drawn: Drawn, records: Path) -> str:
    """Write the figure's points beside the exported records of its runs, if all of these are. Says what it did.

    Points of other runs that lie there already stay.
    """
    if not drawn.points or not all(exported_paths(records, one) for one in drawn.fingerprints):
        return ""
    path = records / FOLDER / f"{drawn.name}.npz"
    if path.exists() and _fingerprints(path) not in (None, list(drawn.fingerprints)):
        return f"{path} is of other runs and stays; without it the points of this figure would be kept there"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, drawn.points)
    except OSError as error:
        return f"{path} cannot be written ({error.strerror}): the figure's points are not kept"
    return f"{path}: from it the report draws this figure without networks"


def drawn_from_points(
    records: Path, frame: pd.DataFrame, name: str = "*", wanted: Callable[[Sequence[Run]], bool] = lambda _: True
) -> Iterator[Drawn | str]:
    """The figures, or that of one ``name``, whose points are kept below ``records``; for one that cannot be drawn, why.

    wanted: whether to draw that of such runs. The caption says of which settings beyond the usual ones these are.
    """
    known = frame.drop_duplicates("fingerprint").set_index("fingerprint")
    for path in sorted((records / FOLDER).glob(f"{name}.npz")):
        try:
            shown, about = _read(path)
            missing = [one for one in about["fingerprints"] if one not in known.index]
            if missing:
                yield f"{path}: the record of {', '.join(missing)} is not there"
                continue
            runs = known.loc[about["fingerprints"]]
            if wanted(list(runs["run"])):
                caption = [about["caption"], *(f"{one}: {words}." for one, words in runs["settings"].items() if words)]
                yield drawn_representation(path.stem, " ".join(caption), about["fingerprints"], shown)
        except UNREADABLE as error:
            yield (
                f"{path}: cannot be drawn ({type(error).__name__}: {error}); "
                "delete it, and python -m csa.report figure=... writes it from the networks"
            )


def _fingerprints(path: Path) -> list[str] | None:
    """None where they cannot be read."""
    try:
        found: list[str] = _read(path)[1]["fingerprints"]
    except UNREADABLE:
        return None
    return found


def _read(path: Path) -> tuple[Representation, dict[str, Any]]:
    with np.load(path, allow_pickle=False) as file:
        about = json.loads(file["about"].tobytes())
        if about["schema"] != SCHEMA:
            raise ValueError(f"schema {about['schema']}, this version reads {SCHEMA}")
        numbers = count()
        rows = [[_cloud(file, name, next(numbers)) for name in row] for row in about["rows"]]
    return Representation(rows, about["classes"], about["names"], about["axis"]), about


def _cloud(file: Mapping[str, np.ndarray], name: str, number: int) -> Cloud:
    points, labels = file[f"points_{number}"], file[f"labels_{number}"]
    if points.shape != (len(labels), 2) or not np.isfinite(points).all():
        raise ValueError(f"points of {name!r} are not a finite pair of numbers for each of {len(labels)} images")
    return Cloud(name, points, labels)


# --- from networks ---------------------------------------------------------------------------


def draw_representation(name: str, runs: Sequence[Run], config: Config, dataset: str) -> Drawn:
    from csa.data.decoding import pixels_at
    from csa.training.recorded import recorded_split

    models = load_models(runs)
    split = recorded_split(models[0].run, config.data_dir, config.download)
    classes = shown_classes(split.counts)
    flat = models[0].backbone.feature_dim == 2
    parts = {
        "training set": (split.train_images, split.train_labels),
        "test set": (split.test_images, split.test_labels),
    }
    rows = []
    for model in models:
        chosen = []
        for pixels, labels in parts.values():
            positions = sample(labels, classes, 500 if flat else PER_CLASS)
            found = features(model, pixels_at(pixels, positions))
            if not np.isfinite(found).all() or not np.ptp(found, axis=0).any():
                problem = "its network gives every image the same feature, or one that is not finite"
                raise UserError(Fault("methods", model.run.method, problem, "a run that has not collapsed"))
            chosen.append((found, labels[positions]))
        points = in_two_dimensions([found for found, _ in chosen])
        rows.append(
            [
                Cloud(f"{printed(model.run.method)}, {part}", cloud, labels)
                for part, cloud, (_, labels) in zip(parts, points, chosen, strict=True)
            ]
        )
    what, axis = ("2-d features", "feature") if flat else ("t-SNE of the features", "t-SNE dimension")
    caption = f"{what} of training and test set of {printed(dataset)}; {named_runs(runs)}."
    shown = Representation(rows, classes, split.classes, axis)
    fingerprints = [run.fingerprint for run in runs]
    drawn = drawn_representation(name, caption, fingerprints, shown)
    return replace(drawn, points=packed(shown, caption, fingerprints))
