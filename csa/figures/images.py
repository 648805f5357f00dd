"""Figures that show images of a data set: class maps of several methods, and what CSA does to images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from csa.figures.style import WIDTH, canvas

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEFT = 0.7  # inches for the names of rows


def draw_class_maps(
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


def draw_contexts(rows: Sequence[tuple[str, np.ndarray]], titles: Sequence[str]) -> Figure:
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
