"""Several product runs that share one GPU, each in a process of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.child import epochs_at_once
from benchmarks.table import Row

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

NUMBERS = (1, 2, 4, 8)
VARIANT = "csa"
EPOCHS = 60
"""Of each run: seconds, so that those in which all train are most of them."""


class AtOnce:
    """Images a second of all runs together, while all of them train."""

    rows = tuple(
        Row(f"at_once_{number}", f"{VARIANT} runs at once on the GPU: {number}", "images/s", "at_once_1")
        for number in NUMBERS
    )

    def __init__(self, words: Sequence[str]) -> None:
        self._words = words

    def measure(self) -> dict[str, float]:
        return {f"at_once_{number}": self._rate(number) for number in NUMBERS}

    def _rate(self, number: int) -> float:
        return rate_together(epochs_at_once(VARIANT, self._words, number, EPOCHS))


def rate_together(runs: Sequence[dict[str, Any]]) -> float:
    """Images a second of all runs, each from those of its whole epochs in which every run was training.

    Raises:
        RuntimeError: of a run there is no such epoch.
    """
    begin, end = max(run["ends"][0] for run in runs), min(run["ends"][-1] for run in runs)
    rate = 0.0
    for run in runs:
        inside = [moment for moment in run["ends"] if begin <= moment <= end]
        if len(inside) < 2:
            raise RuntimeError(f"{len(runs)} runs at once hardly overlapped: one of them had no whole epoch meanwhile")
        rate += run["trained"] * (len(inside) - 1) / (inside[-1] - inside[0])
    return rate
