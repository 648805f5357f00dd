"""Several panels of the same kind on one figure: one a cell, one look a method, one legend."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from csa.figures.store import several
from csa.figures.style import canvas, looks, shared_legend, wrapped

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from csa.figures.store import Panel

PANEL_HEIGHT = 2.0


def draw_panels(
    panels: Sequence[Panel], draw: Callable[[Axes, Panel, dict[str, dict[str, Any]]], None], xlabel: str
) -> Figure:
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = canvas(0.5 + PANEL_HEIGHT * rows, rows, columns)
    appearance = looks(several(panels))
    used = list(axes.flat[: len(panels)])
    for one, panel in zip(used, panels, strict=True):
        draw(one, panel, appearance)
        one.set_title(wrapped(panel.name), loc="left")
        one.set_xlabel(xlabel)
    for one in axes.flat[len(panels) :]:
        one.set_visible(False)
    shared_legend(figure, used)
    return figure
