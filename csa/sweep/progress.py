"""How far the runs of a sweep are, read from their folders; nothing is asked of the processes that train."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from csa.config.schema import Config
    from csa.sweep.plan import PlannedRun
    from csa.tracking.run import State


@dataclass
class Progress:
    """One look. running: with epochs so far and in all; seconds_left: None as long as nothing can be said."""

    states: dict[str, State]
    running: list[tuple[PlannedRun, int, int]]
    seconds_left: float | None


class Watch:
    """Looks at runs again and again. runs: all of the sweep; to_do: those that this start is to run."""

    def __init__(self, runs: Sequence[PlannedRun], to_do: Sequence[PlannedRun]) -> None:
        self._runs = {run.fingerprint: run for run in runs}
        self._to_do = {run.fingerprint for run in to_do}
        self._states = {name: run.state for name, run in self._runs.items()}
        self._began = time.monotonic()
        self._fraction_at_start = self._fraction()

    def look(self) -> Progress:
        for name in self._to_do:
            if self._states[name] != "done":
                self._states[name] = self._runs[name].state
        running = [
            (run, run.record.epochs_so_far, epochs_of(run.config))
            for name, run in self._runs.items()
            if self._states[name] == "running"
        ]
        return Progress(dict(self._states), running, self._seconds_left())

    def _seconds_left(self) -> float | None:
        fraction = self._fraction()
        if fraction - self._fraction_at_start < 0.01:
            return None
        elapsed = time.monotonic() - self._began
        return elapsed * (1 - fraction) / (fraction - self._fraction_at_start)

    def _fraction(self) -> float:
        """Of the epochs of what is to be done."""
        done = total = 0.0
        for name in self._to_do:
            epochs = epochs_of(self._runs[name].config)
            total += epochs
            state = self._states[name]
            done += (
                epochs
                if state in ("done", "failed")
                else self._runs[name].record.epochs_so_far
                if state != "planned"
                else 0
            )
        return done / total if total else 1.0


def epochs_of(config: Config) -> int:
    """Epochs of all stages."""
    return sum(config.method.stage_epochs(config.protocol))
