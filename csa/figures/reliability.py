"""Reliability diagram: how often a network is right when it says that it is sure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from csa.figures.panels import draw_panels
from csa.training.metrics import calibration_bins

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from csa.figures.store import Panel
    from csa.reporting.runs import Run


def draw(panels: Sequence[Panel]) -> Figure:
    """Share of right images over mean confidence, in bins of equal width, all seeds together."""
    return draw_panels(panels, _panel, "confidence (%)")


def _panel(axes: Axes, panel: Panel, looks: dict[str, dict[str, Any]]) -> None:
    axes.plot([0, 100], [0, 100], color="#666666", linewidth=0.8, linestyle=":", label="perfectly calibrated")
    for method, runs in panel.methods.items():
        found = [confidences(run) for run in runs]
        confidence, right = (np.concatenate(parts) for parts in zip(*found, strict=True))
        x, y, _ = binned(confidence, right)
        axes.plot(100 * x, 100 * y, label=method, **looks[method])
    axes.set_xlim(0, 100)
    axes.set_ylim(-2, 102)
    axes.set_ylabel("images that are right (%)")


def confidences(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Probability of the predicted class [N] and whether it is right [N], from the recorded logits."""
    from csa.reporting.sources import FolderEvidence

    assert isinstance(run.evidence, FolderEvidence)
    head = run.head()
    largest = float(np.finfo(np.float16).max)  # larger ones were recorded as infinite
    logits = np.nan_to_num(run.evidence.logits(head).astype(np.float64), posinf=largest, neginf=-largest)
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    probabilities = shifted / shifted.sum(1, keepdims=True)
    predictions = run.evidence.predictions(head)
    return probabilities[np.arange(len(predictions)), predictions], predictions == run.evidence.labels


def binned(confidence: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean confidence, share of right ones and number of images of each bin that holds any."""
    bins = calibration_bins(confidence)
    sizes = np.bincount(bins)
    held = sizes > 0
    mean = np.bincount(bins, weights=confidence)[held] / sizes[held]
    share = np.bincount(bins, weights=right)[held] / sizes[held]
    return mean, share, sizes[held]
