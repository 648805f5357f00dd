"""``plan=true``: what a sweep consists of, what is done of it, what the rest will take."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from csa.console import FoldedTable, counting, duration
from csa.sweep.cells import swept_keys
from csa.sweep.estimate import Estimate, estimate
from csa.sweep.slots import slots, where
from csa.sweep.summary import SEED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from csa.config.schema import Config
    from csa.console import PlainConsole
    from csa.sweep.cells import Cell
    from csa.sweep.plan import Plan, PlannedRun, Settings
    from csa.sweep.slots import Slot

NOT_AVAILABLE = "not available"
BLANK = "blank in the paper"
MOST_MERGED, MOST_UNKNOWN = 10, 4


def print_plan(console: PlainConsole, plan: Plan, settings: Settings) -> None:
    to_do = settings.to_do(plan)
    configs = [run.config for run in to_do]
    places = slots(settings.sweep, configs) if configs else []
    told = estimate(to_do, places[0].threads if places else 1, measure=settings.sweep.calibrate)
    console.print(_table(plan, told))
    for run in plan.merged[:MOST_MERGED]:
        names = [" ".join(cell.words) for cell in run.cells]
        more = f", and {len(names) - 2} more cells" if len(names) > 2 else ""
        console.print(f"one run: {names[0]} | {names[1]}{more}")
    for text in plan.unreadable():
        console.print(f"cannot be read: {text}")
    console.print(counted(plan))
    console.print(_time(plan, told, places, configs))


def _table(plan: Plan, told: Estimate) -> FoldedTable:
    """A row for each cell but its seed."""
    everything = [run.cells[0] for run in plan.runs] + [cell for cell, _ in plan.missing]
    keys = [key for key in swept_keys(everything) if key != SEED]
    rows: dict[tuple[str, ...], list[PlannedRun]] = {}
    blank: set[tuple[str, ...]] = set()
    missing: dict[tuple[str, ...], list[str]] = {}

    def names(cell: Cell) -> tuple[str, ...]:
        row = tuple(dict(cell.settings).get(key, "") for key in keys)
        if cell.blank:
            blank.add(row)
        return row

    for cell, option in plan.missing:
        missing.setdefault(names(cell), []).append(option)
    for run in plan.runs:
        rows.setdefault(names(run.cells[0]), []).append(run)
    table = FoldedTable(*(keys or ["cell"]), "runs", "state", "time", *([""] if blank else []))
    for row in dict.fromkeys([*rows, *missing]):
        runs = rows.get(row, [])
        states = [*(run.state for run in runs), *([NOT_AVAILABLE] * len(missing.get(row, [])))]
        seconds = sum(told.seconds.get(run.fingerprint, 0) for run in runs)
        table.add_row(
            *(row if keys else ["the run"]),
            str(len(states)),
            ", ".join(f"{count} {state}" if len(states) > 1 else state for state, count in Counter(states).items()),
            duration(seconds) if seconds else "",
            *([BLANK if row in blank else ""] if blank else []),
        )
    return table


def counted(plan: Plan) -> str:
    """``40 cells, 38 runs (2 duplicates merged): 31 done, ...``."""
    merged = sum(len(run.cells) - 1 for run in plan.runs)
    told = [f"{count} {state}" for state, count in plan.counts().items()]
    if plan.missing:
        told.append(
            f"{len(plan.missing)} {NOT_AVAILABLE} ({', '.join(dict.fromkeys(name for _, name in plan.missing))})"
        )
    duplicates = f" ({merged} duplicates merged)" if merged else ""
    return f"{counting(plan.cells, 'cell')}, {counting(len(plan.runs), 'run')}{duplicates}: {', '.join(told)}"


def _time(plan: Plan, told: Estimate, places: Sequence[Slot], configs: Sequence[Config]) -> str:
    lines = []
    if plan.absent_data:
        lines.append(f"not here yet, and downloaded by the first run: {', '.join(sorted(plan.absent_data))}")
    if told.seconds:
        lines.append(f"estimated: {duration(told.wall(len(places)))} ({where(places, configs)})")
    elif not told.unknown:
        lines.append("nothing is left to do")
    if told.unknown:
        more = len(told.unknown) - MOST_UNKNOWN
        others = f"; and {more} other kinds of run" if more > 0 else ""
        lines.append(f"no time is known of: {'; '.join(told.unknown[:MOST_UNKNOWN])}{others}")
    return "\n".join(lines)
