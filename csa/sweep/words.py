"""Words for people: a run's name within its sweep, a time span."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from csa.sweep.plan import Run


def label(run: Run) -> str:
    """The words that make the run; of a run without any, its folder's name."""
    return " ".join(run.words) or run.folder.name


def duration(seconds: float) -> str:
    """``40 s``, ``12 min``, ``3.5 h``, ``2.1 days``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"
