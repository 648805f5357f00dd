"""Comparisons as text: headings, cells, caption."""

from __future__ import annotations

from typing import TYPE_CHECKING

from csa.reporting.layout import DASH, number, signed, spans
from csa.reporting.statistics import FEWEST_PAIRS

if TYPE_CHECKING:
    from csa.reporting.comparisons import Comparison, Comparisons

HEADINGS = (
    *("Data", "First", "Second", "Seeds", "Means", "Difference", "95 % interval", "p", "p corrected"),
    *("Only first / second right", "p images", "p images corrected", "Verdict"),
)
DIGITS = 2
SMALLEST_P = 0.0001


def comparison_cells(row: Comparison) -> list[str]:
    test, images = row.test, row.predictions
    means = f"{row.means[0]:.{DIGITS}f} / {row.means[1]:.{DIGITS}f}" if row.means else DASH
    tested = [DASH] * 4
    if test:
        low, high = (number(end, DIGITS) for end in test.interval)
        tested = [signed(test.difference, DIGITS), f"[{low}, {high}]", p_text(test.p), p_text(row.corrected)]
    seen = [DASH] * 3
    if images:
        seen = [
            f"{images.only_first} / {images.only_second}",
            p_text(images.p),
            p_text(row.predictions_corrected),
        ]
    return [row.where, row.first, row.second, spans(row.seeds) or DASH, means, *tested, *seen, row.verdict]


def p_text(p: float | None) -> str:
    if p is None:
        return DASH
    return f"< {SMALLEST_P}" if p < SMALLEST_P else f"{p:.4f}"


def comparison_caption(comparisons: Comparisons) -> list[str]:
    head = comparisons.view.head
    shown = f" of head {head} where a method has it" if head else " of the head that stands for each run"
    if not comparisons.rows:
        return [f"{comparisons.title}.", "No two of them have runs in the same cell."]
    paired = f"Difference: first minus second, mean over pairs; t interval and p from {FEWEST_PAIRS} pairs on."
    return [
        f"{comparisons.title}.",
        f"Test accuracy (%) of all classes at the last epoch{shown}; runs of the same seed on the same data are pairs.",
        paired,
        "Images: test images that only the first, or only the second, classifies rightly, summed over seeds.",
        "p images: McNemar's exact test of each seed, put together as twice their median.",
        "Corrected: after Holm, over this table. The verdict is that of the corrected p over seeds at the 5 % level.",
    ]
