"""Several product runs that share one GPU, each in a process of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.child import epochs_at_once
from benchmarks.table import Row

if TYPE_CHECKING:
    from collections.abc import Sequence

NUMBERS = (1, 2, 4, 8)
VARIANT = "csa"


class AtOnce:
    """Images of all runs together, over the seconds of the slowest."""

    rows = tuple(
        Row(f"at_once_{number}", f"{VARIANT} runs at once on the GPU: {number}", "images/s", "at_once_1")
        for number in NUMBERS
    )

    def __init__(self, words: Sequence[str]) -> None:
        self._words = words

    def measure(self) -> dict[str, float]:
        return {f"at_once_{number}": self._rate(number) for number in NUMBERS}

    def _rate(self, number: int) -> float:
        runs = epochs_at_once(VARIANT, self._words, number)
        return sum(run["images"] for run in runs) / max(run["seconds"] for run in runs)
