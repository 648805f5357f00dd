"""What a person sees while a sweep runs: one table that renews itself, or lines where there is no terminal."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from rich.live import Live
from rich.text import Text

from csa.console import FoldedTable, counting, duration
from csa.sweep.progress import Progress, Watch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from csa.console import PlainConsole
    from csa.sweep.plan import Plan, PlannedRun

LOOK_SECONDS = 0.5
MOST_ROWS = 12


class Display:
    """Context manager. quiet: nothing is shown (runs in this process show themselves)."""

    def __init__(self, console: PlainConsole, plan: Plan, to_do: Sequence[PlannedRun], *, quiet: bool) -> None:
        self._console, self._plan, self._to_do = console, plan, to_do
        self._quiet = quiet
        self._watch = Watch(plan.runs, to_do)
        self._told = {run.fingerprint: run.state for run in plan.runs}
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
            if state != self._told[run.fingerprint]:
                self._told[run.fingerprint] = state
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
