"""What a tracker is: something that reads recorded runs and writes them somewhere else.

The record is the truth and the outbox: a tracker makes its own place equal to it, however often it is asked.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from csa.config.blocks import named_class
from csa.config.faults import Fault
from csa.config.schema import TrackingConfig

if TYPE_CHECKING:
    from pathlib import Path

    from csa.tracking.snapshot import Snapshot
    from csa.tracking.sweeps import Sweep

Settings = TypeVar("Settings", bound=TrackingConfig)


class Tracker(ABC, Generic[Settings]):
    """One place that recorded runs go to; made of its block of the configuration.

    ``faults`` and ``browse`` are asked by the command itself, and import nothing heavy. All else runs in a process
    beside the training: it may be slow, and may raise; then it is asked again, later each time.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def faults(self) -> list[Fault]:
        """What shows before anything runs: a package that is not there, an address that is none."""
        return []

    def browse(self, folder: Path) -> str:
        """What to open, or to type into a shell, to see the run of ``folder``; "" where there is nothing to say."""
        return ""

    def reach(self) -> None:
        """Raise UserError where nothing at all can be written at present."""

    @abstractmethod
    def push(self, run: Snapshot) -> str:
        """Make the place equal to the record; what was sent, in words for a person, or "" where nothing was missing.

        It is called while the run trains, whenever its files have changed, and again from its start by another process
        after this one was killed: what is there already must not be there twice.
        """

    def push_sweep(self, sweep: Sweep) -> str | None:
        """As ``push``, for the sweep itself; the name of its run there, if it has one, is noted in all its runs."""
        return None

    def close(self, folder: Path) -> None:
        """Let go of what is kept of a run between two pushes: it has ended, or pushing it has failed."""


def tracker_of(settings: TrackingConfig) -> Tracker[Any] | None:
    """None: the local record only. Raises UserError where ``target`` names no tracker."""
    if settings.target is None:
        return None
    base: type[Tracker[Any]] = Tracker
    return named_class("tracking.target", settings.target, base)(settings)


def lacking(settings: TrackingConfig, package: str) -> list[Fault]:
    """A fault where a package is not installed that the extra of the same name brings."""
    found = find_spec(package)
    if found is not None and found.origin is not None:  # a folder of that name would be found, too: wandb makes one
        return []
    return [Fault("tracking", settings.name, "is not installed", f"pip install 'csa[{package}]', or tracking=none")]
