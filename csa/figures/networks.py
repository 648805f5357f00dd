"""The networks of recorded runs, for figures: which, their features, their class maps; and Figures 3 and 11 and that of
contexts, which show images. Imports torch late.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from csa.config.faults import Fault, UserError
from csa.figures.style import WIDTH, canvas, files, style
from csa.metrics import by_size
from csa.reporting.layout import Drawn, printed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

    from csa.config.schema import Config
    from csa.data.split import Split
    from csa.methods.method import Method
    from csa.models.backbone import Backbone
    from csa.tracking.run import Run

BATCH = 500
MOST_CLASSES = 10
SHOWN_IMAGES = 6
LAMBDA = 0.7  # of the blended images that are drawn; in training it is uniform
LEFT = 0.7  # inches for the names of rows

# --- which runs -----------------------------------------------------------------------------


def model_runs(
    rows: pd.DataFrame, dataset: str, methods: Sequence[str], seed: int, imbalance_ratio: float | None = None
) -> list[Run]:
    """Of each method one run on the data set with that seed whose checkpoint is there: same images, same backbone.

    rows: of ``one_head``. Which images and backbone: those that most of the methods have, then those with the plainest
    runs, then the backbone that most runs have, then the highest imbalance ratio, unless one is asked for. Which run:
    plain settings before shortened runs, those before variants (CSA without its bank), then the one of most epochs.

    Raises UserError with every method that has none.
    """
    here = [
        (run, distance(words))
        for run, words in zip(rows["run"], rows["settings"], strict=True)
        if (run.dataset, run.seed) == (dataset, seed)
        and run.method in methods
        and run.checkpoint.exists()
        and imbalance_ratio in (None, run.config["dataset"]["imbalance_ratio"])
    ]
    cells: dict[tuple[str, str], dict[str, tuple[Run, int]]] = {}
    for run, far in sorted(here, key=lambda one: (one[1], -int(one[0].result["epochs"]), one[0].fingerprint)):
        cells.setdefault((run.split, _backbone(run)), {}).setdefault(run.method, (run, far))
    often = [_backbone(run) for run, _ in here]

    def preference(cell: dict[str, tuple[Run, int]]) -> tuple[object, ...]:
        run = next(iter(cell.values()))[0]
        farthest, ratio = max(far for _, far in cell.values()), run.config["dataset"]["imbalance_ratio"]
        return -len(cell), farthest, -often.count(_backbone(run)), -ratio, run.split, _backbone(run)

    chosen = min(cells.values(), key=preference, default={})
    missing = [method for method in methods if method not in chosen]
    if missing:
        there = [run for run, _ in chosen.values()]
        raise UserError(*(_no_run(method, there, list(rows["run"]), dataset, seed) for method in missing))
    return [chosen[method][0] for method in methods]


def distance(settings: str) -> int:
    """From the plain settings of a method: 0 these, 1 these but of another recipe or other images, 2 others."""
    words = settings.split()
    return 0 if not words else 1 if all(word.startswith(("protocol", "dataset.")) for word in words) else 2


def _backbone(run: Run) -> str:
    return str(run.identity["backbone"]["name"])


def _no_run(method: str, chosen: Sequence[Run], runs: Sequence[Run], dataset: str, seed: int) -> Fault:
    """What is missing, and the seeds that there are or the command that trains it."""
    seeds = sorted(
        {run.seed for run in runs if (run.dataset, run.method) == (dataset, method) and run.checkpoint.exists()}
    )
    problem = f"no run of it on {dataset} with seed {seed} has a checkpoint here"
    if seeds and seed not in seeds:
        return Fault("methods", method, problem, f"seed={', '.join(map(str, seeds))}")
    words = f"dataset={dataset} method={method} seed={seed}"
    if seed in seeds and chosen:
        others = ", ".join(run.method for run in chosen)
        problem = f"no run of it with the images and the backbone of {others} (seed {seed}) has a checkpoint here"
        block = chosen[0].config["dataset"]
        ratio = f" dataset.imbalance_ratio={block['imbalance_ratio']:g}" if block.get("profile") == "exp" else ""
        words += f"{ratio} backbone={_backbone(chosen[0])}"
    return Fault("methods", method, problem, f"python -m csa.run {words}")


def named_runs(runs: Sequence[Run]) -> str:
    """Which runs a picture is of, for its caption."""
    return "; ".join(f"{printed(run.method)} {run.fingerprint} (seed {run.seed})" for run in runs)


# --- networks -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Model:
    run: Run
    method: Method
    backbone: Backbone
    config: Config


def load_models(runs: Sequence[Run]) -> list[Model]:
    """Raises UserError where a network cannot be read or has no single backbone."""
    from csa.models.backbone import Backbone
    from csa.training.recorded import load_method

    found = []
    for run in runs:
        method, config = load_method(run.folder)
        backbone = getattr(method, "backbone", None)
        if not isinstance(backbone, Backbone):
            problem = f"{run.method} has no single backbone whose features could be drawn"
            raise UserError(Fault("methods", run.method, problem, "methods with one backbone"))
        found.append(Model(run, method, backbone, config))
    return found


def as_images(pixels: np.ndarray) -> Tensor:
    """uint8 [N, H, W, C] to float32 [N, C, H, W] in [0, 1]."""
    import torch

    return torch.from_numpy(pixels.copy()).permute(0, 3, 1, 2).float() / 255


def features(model: Model, pixels: np.ndarray) -> np.ndarray:
    """What the classifiers read, float32 [N, F]."""
    import torch

    with torch.no_grad():
        parts = [model.backbone(as_images(pixels[start : start + BATCH])) for start in range(0, len(pixels), BATCH)]
    found: np.ndarray = torch.cat(parts).numpy()
    return found


def class_maps(model: Model, pixels: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Grad-CAM of each image's own class under the primary head [N, H, W] in [0, 1], and p(y|x) [N].

    Under CSA's uniform head it is the map of training, whose mask is (1 - cam)^2.
    """
    import torch

    from csa.methods.background_mask import background_mask, gradient_class_map

    model.backbone.need_map("a class map")
    images = as_images(pixels)
    with torch.no_grad():
        feature_map = model.backbone.feature_map(images)
    feature_map = feature_map.detach().requires_grad_()
    with _reading(model.backbone, feature_map):
        logits = model.method.logits(images)[model.method.primary_head].float()
    picked = torch.from_numpy(labels)[:, None]
    maps = gradient_class_map(feature_map, logits.gather(1, picked))
    height, width = pixels.shape[1:3]
    cam = 1 - background_mask(maps, (height, width)).sqrt()
    certain = model.method.probabilities(logits.detach()).gather(1, picked)[:, 0]
    return cam[:, 0].numpy(), certain.numpy()


@contextmanager
def _reading(backbone: Backbone, feature_map: Tensor) -> Iterator[None]:
    """Inside, the backbone's convolutions give this map: whatever a method computes from it can be differentiated."""
    vars(backbone)["feature_map"] = lambda _: feature_map
    try:
        yield
    finally:
        del vars(backbone)["feature_map"]


# --- what is shown --------------------------------------------------------------------------


def draw_class_maps(name: str, runs: Sequence[Run], config: Config, dataset: str) -> Drawn:
    from csa.data.decoding import pixels_at
    from csa.training.recorded import recorded_split

    models = load_models(runs)
    split = recorded_split(models[0].run, config.data_dir, config.download)
    positions = first_of_classes(split)
    pixels, labels = pixels_at(split.test_images, positions), split.test_labels[positions]
    maps = [(printed(model.run.method), *class_maps(model, pixels, labels)) for model in models]
    titles = [_title(split, int(k)) for k in labels]
    with style():
        content = files(_class_map_grid(pixels, titles, maps))
    caption = (
        f"Grad-CAM of each test image's own class on {printed(dataset)}, and its probability p; below the names the "
        f"training images of the class; {named_runs([model.run for model in models])}."
    )
    return _drawn(name, caption, content, models)


def draw_contexts(name: str, runs: Sequence[Run], config: Config, dataset: str) -> Drawn:
    """What is in the context bank at the end of training, and how it is blended into tail images."""
    import torch

    from csa.data.decoding import pixels_at
    from csa.methods.context_bank import ContextBank
    from csa.methods.mixing import blend_context
    from csa.training.recorded import recorded_split

    models = load_models(runs)
    bank = getattr(models[0].method, "bank", None)
    held = int(bank.count) if isinstance(bank, ContextBank) else 0
    if not isinstance(bank, ContextBank) or held == 0:
        problem = "its context bank is empty" if isinstance(bank, ContextBank) else "it has no context bank"
        raise UserError(Fault("run", models[0].run.where, problem, "a run of CSA that fits its images"))
    split = recorded_split(models[0].run, config.data_dir, config.download)
    shown = min(SHOWN_IMAGES, held)
    contexts, masks = bank.images[:shown], bank.masks[:shown]
    tail = shown_classes(split.counts)[-shown:]
    positions = [int(np.flatnonzero(split.train_labels == k)[0]) for k in tail]
    plain = as_images(pixels_at(split.train_images, positions))
    weight = torch.tensor(LAMBDA)
    blended = blend_context(plain, contexts[: len(tail)], masks[: len(tail)], weight)
    rows = [("context", contexts), ("mask M", masks), ("balanced\nbatch", plain), (f"blended,\nλ = {LAMBDA}", blended)]
    titles = [_title(split, k) for k in tail]
    with style():
        pictures = [(label, tensor.permute(0, 2, 3, 1).clamp(0, 1).numpy()) for label, tensor in rows]
        content = files(_context_grid(pictures, titles))
    caption = (
        f"Contexts in the bank of CSA on {printed(dataset)} after training, their background masks, images of the "
        f"class-balanced batch (named above with their classes' training images), and the blend; "
        f"{named_runs([model.run for model in models])}."
    )
    return _drawn(name, caption, content, models)


def shown_classes(counts: Sequence[int], most: int = MOST_CLASSES) -> list[int]:
    """All, or so many evenly over the ranks of class size, the largest and the smallest among them."""
    order = by_size(counts)
    positions = np.linspace(0, len(order) - 1, min(most, len(order))).round().astype(int)
    return [order[position] for position in positions]


def first_of_classes(split: Split) -> list[int]:
    """Of six classes evenly over the ranks the first test image."""
    return [int(np.flatnonzero(split.test_labels == k)[0]) for k in shown_classes(split.counts, SHOWN_IMAGES)]


def _title(split: Split, k: int) -> str:
    return f"{split.classes[k]}\n({split.counts[k]})"


def _drawn(name: str, caption: str, content: dict[str, bytes], models: Sequence[Model]) -> Drawn:
    return Drawn(name, caption, content, tuple(model.run.fingerprint for model in models))


# --- grids of images ------------------------------------------------------------------------


def _class_map_grid(
    pixels: np.ndarray, names: Sequence[str], maps: Sequence[tuple[str, np.ndarray, np.ndarray]]
) -> Figure:
    """Figures 3 and 11: a column an image, a row a method.

    pixels: [N, H, W, C]; maps: of each method its name, its class maps [N, H, W] in [0, 1], and p(y|x) [N].
    """
    figure, axes = _grid(1 + len(maps), len(pixels))
    for column, name in enumerate(names):
        show(axes[0, column], pixels[column])
        axes[0, column].set_title(name, fontsize=6)
    _row_name(axes[0, 0], "image")
    mappable = None
    for row, (method, cams, certain) in enumerate(maps, start=1):
        for column, cam in enumerate(cams):
            one = axes[row, column]
            show(one, pixels[column].mean(-1, keepdims=True).astype(pixels.dtype))
            mappable = one.imshow(cam, cmap="cividis", alpha=0.65, vmin=0, vmax=1, interpolation="nearest")
            one.set_xlabel(f"p = {certain[column]:.2f}", fontsize=6, labelpad=1)
        _row_name(axes[row, 0], method)
    if mappable is not None:
        figure.colorbar(mappable, ax=axes, shrink=0.5, pad=0.01, label="Grad-CAM (0 to 1)")
    return figure


def _context_grid(rows: Sequence[tuple[str, np.ndarray]], titles: Sequence[str]) -> Figure:
    """Rows of images [N, H, W, C] in [0, 1] or masks [N, H, W, 1], each with its name; a title a column."""
    figure, axes = _grid(len(rows), len(titles))
    for row, (name, pictures) in enumerate(rows):
        for column, picture in enumerate(pictures):
            show(axes[row, column], picture)
        _row_name(axes[row, 0], name)
    for column, title in enumerate(titles):
        axes[0, column].set_title(title, fontsize=6)
    return figure


def _grid(rows: int, columns: int) -> tuple[Figure, np.ndarray]:
    side = (WIDTH - LEFT) / columns
    figure, axes = canvas(rows * (side + 0.18) + 0.2, rows, columns)
    for one in axes.flat:
        one.set_xticks([])
        one.set_yticks([])
        one.grid(visible=False)
        for spine in one.spines.values():
            spine.set(visible=True, color="#bbbbbb", linewidth=0.5)
    return figure, axes


def show(axes: Axes, picture: np.ndarray) -> None:
    """One image [H, W, C], uint8 or in [0, 1]; a single channel in grey."""
    if picture.shape[-1] == 1:
        axes.imshow(picture[..., 0], cmap="gray", vmin=0, vmax=255 if picture.dtype == np.uint8 else 1)
    else:
        axes.imshow(picture)


def _row_name(axes: Axes, name: str) -> None:
    axes.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=7)
