"""What a person sees while a sweep runs: one table that renews itself, or lines where there is no terminal.

It is read from the folders of the runs; nothing is asked of the processes that train.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.live import Live
from rich.text import Text

from csa.console import FoldedTable, counting, duration

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from csa.config.schema import Config
    from csa.console import PlainConsole
    from csa.sweep.plan import Plan, PlannedRun
    from csa.tracking.run import State

LOOK_SECONDS = 0.5
MOST_ROWS = 12


# --- how far the runs are --------------------------------------------------------------------


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
            if state in ("done", "failed"):
                done += epochs
            elif state != "planned":
                done += self._runs[name].record.epochs_so_far
        return done / total if total else 1.0


def epochs_of(config: Config) -> int:
    """Epochs of all stages."""
    return sum(config.method.stage_epochs(config.protocol))


# --- shown ------------------------------------------------------------------------------------


class Display:
    """Context manager. quiet: nothing is shown (runs in this process show themselves)."""

    def __init__(self, console: PlainConsole, plan: Plan, to_do: Sequence[PlannedRun], *, quiet: bool) -> None:
        self._console, self._plan, self._to_do = console, plan, to_do
        self._quiet = quiet
        self._watch = Watch(plan.runs, to_do)
        self._printed = {run.fingerprint: run.state for run in plan.runs}
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look, name="csa-sweep-display", daemon=True)
        self._live: Live | None = None

    def __enter__(self) -> Display:
        if self._quiet or not self._to_do:
            return self
        if self._console.is_terminal:
            self._live = Live(self._table(self._watch.look()), console=self._console, auto_refresh=False)
            self._live.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        if self._thread.is_alive():
            self._thread.join()
            self._show(self._watch.look())
        if self._live is not None:
            self._live.stop()

    def _look(self) -> None:
        while not self._end.wait(LOOK_SECONDS):
            self._show(self._watch.look())

    def _show(self, progress: Progress) -> None:
        if self._live is not None:
            self._live.update(self._table(progress), refresh=True)
            return
        for run in self._to_do:
            state = progress.states[run.fingerprint]
            if state != self._printed[run.fingerprint]:
                self._printed[run.fingerprint] = state
                counted = sum(one in ("done", "failed") for one in progress.states.values())
                self._console.print(
                    f"[{counted}/{len(self._plan.runs)}] {state}: {self._plan.label(run)}{left(progress)}"
                )

    def _table(self, progress: Progress) -> RenderableType:
        table = FoldedTable("", "", "", box=None, show_header=False, padding=(0, 2), pad_edge=False)
        for run, so_far, epochs in progress.running[:MOST_ROWS]:
            table.add_row("running", self._plan.label(run), f"epoch {so_far}/{epochs}")
        if len(progress.running) > MOST_ROWS:
            table.add_row("", f"and {len(progress.running) - MOST_ROWS} more", "")
        states = list(progress.states.values())
        counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(("done", "failed", *states)))
        table.add_row(Text(counting(len(states), "run"), style="bold"), counts + left(progress), "")
        return table


def left(progress: Progress) -> str:
    return "" if progress.seconds_left is None else f", {duration(progress.seconds_left)} left"
