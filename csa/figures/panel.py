"""What a figure is drawn from: the runs of one table, line by line, as the frame has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from csa.figures.style import look
from csa.metrics import GROUPS, by_size
from csa.reporting.frame import one_head
from csa.reporting.layout import place_in_print, ranges

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from matplotlib.axes import Axes

    from csa.reporting.layout import Section
    from csa.tracking.run import Run

SHADES = ("#ffffff", "#f0f0f0", "#e0e0e0")
"""Behind the classes of each shot group, in this order everywhere."""


@dataclass(frozen=True)
class Line:
    """Runs of one line of a table, by seed, each under the ``head`` that is shown of it."""

    name: str
    runs: tuple[Run, ...]
    heads: tuple[str, ...]
    look: Mapping[str, Any]

    @property
    def label(self) -> str:
        """With the number of seeds, and of those that collapsed."""
        collapsed = sum(run.scores(head=head).get("predicted_classes") == 1 for run, head in self.with_heads())
        and_collapsed = f", {collapsed} collapsed" if collapsed else ""
        return f"{self.name} ({len(self.runs)}{and_collapsed})"

    def with_heads(self) -> list[tuple[Run, str]]:
        return list(zip(self.runs, self.heads, strict=True))

    def per_class(self, order: Sequence[int]) -> np.ndarray:
        """Accuracy [seeds, K] of the classes in ``order``, last epoch, percent; NaN without test images."""
        rows = [run.scores(head=head)["per_class"] for run, head in self.with_heads()]
        return np.array([[row[k] for k in order] for row in rows], dtype=np.float64)


@dataclass(frozen=True)
class Panel:
    """The lines of a table, the baseline first where there is one; data: their numbers."""

    name: str
    title: str
    lines: tuple[Line, ...]
    data: pd.DataFrame

    @property
    def runs(self) -> list[Run]:
        return [run for line in self.lines for run in line.runs]

    @property
    def split(self) -> dict[str, Any]:
        found: dict[str, Any] = self.runs[0].result["split"]
        return found

    @property
    def order(self) -> list[int]:
        """Classes, that of most training images first."""
        return by_size(self.split["counts"])

    @property
    def has_baseline(self) -> bool:
        return bool(self.data["is_baseline"].iloc[0])

    def seeds(self) -> str:
        """``Seeds 0-9.``, where they differ from line to line as well."""
        of = {line.name: ranges([run.seed for run in line.runs]) for line in self.lines}
        if len(set(of.values())) == 1:
            one = next(iter(of.values()))
            return f"{'Seed' if one.isdigit() else 'Seeds'} {one}."
        return f"Seeds: {'; '.join(f'{name} {seeds}' for name, seeds in of.items())}."


def panel(section: Section, frame: pd.DataFrame, looks: Mapping[str, Mapping[str, Any]], head: str = "") -> Panel:
    rows = one_head(frame, head).set_index("fingerprint")
    lines = []
    for line in section.data.to_dict("records"):
        own = rows.loc[line["fingerprints"].split()].sort_values("seed", kind="stable")
        lines.append(Line(line["line"], tuple(own["run"]), tuple(own["head"]), looks[line["line"]]))
    return Panel(section.name, section.title, tuple(lines), section.data)


def looks_of(frame: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """One colour, marker and line a line of the tables, the same through a whole report."""
    lines = frame[["method", "line"]].drop_duplicates().itertuples(index=False)
    order = sorted(lines, key=lambda one: (place_in_print(one.method), one.method, len(one.line), one.line))
    return {name: look(position) for position, name in enumerate(dict.fromkeys(one.line for one in order))}


def shade_groups(axes: Axes, order: Sequence[int], groups: Mapping[str, Sequence[int]], *, named: bool = True) -> None:
    """Shot groups, each its classes, behind those classes, which stand at 0, 1, ... in this order."""
    rank = {k: position for position, k in enumerate(order)}
    for group, shade in zip(GROUPS, SHADES, strict=True):
        positions = [rank[k] for k in groups[group]]
        if positions:
            axes.axvspan(min(positions) - 0.5, max(positions) + 0.5, color=shade, zorder=0, linewidth=0)
            if not named:
                continue
            axes.text((min(positions) + max(positions)) / 2, 1.0, group, transform=axes.get_xaxis_transform(),
                      ha="center", va="bottom", fontsize=6.5, color="#555555")  # fmt: skip
    axes.set_xlim(-0.5, len(rank) - 0.5)
