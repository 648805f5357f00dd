"""Figures that show images of a data set: class maps of several methods, and what CSA does to images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from csa.config.faults import Fault, UserError
from csa.figures.networks import Model, as_images, class_maps, load_models, told
from csa.figures.representation import shown_classes
from csa.figures.style import WIDTH, canvas, files, style
from csa.reporting.layout import Drawn, printed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from csa.config.schema import Config
    from csa.data.split import Split
    from csa.tracking.run import Run

SHOWN_IMAGES = 6
LAMBDA = 0.7  # of the blended images that are drawn; in training it is uniform
LEFT = 0.7  # inches for the names of rows

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
        f"training images of the class; {told([model.run for model in models])}."
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
        f"{told([model.run for model in models])}."
    )
    return _drawn(name, caption, content, models)


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
            show(one, _grey(pixels[column]))
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


def _grey(picture: np.ndarray) -> np.ndarray:
    grey: np.ndarray = picture.mean(-1, keepdims=True).astype(picture.dtype)
    return grey


def _row_name(axes: Axes, name: str) -> None:
    axes.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=7)
