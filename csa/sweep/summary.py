"""What a sweep says: under ``plan=true`` its cells, what is done of them and what the rest will take; at its end the
accuracies, mean over seeds, and the failures with their last lines.
"""

from __future__ import annotations

from collections import Counter
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from rich.text import Text

from csa.config.cells import swept_keys
from csa.console import PLUS_MINUS, FoldedTable, counting, duration, two_decimals
from csa.sweep.estimate import Estimate, estimate
from csa.sweep.plan import STATES
from csa.sweep.processes import in_words, reason, slots_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from csa.config.cells import Cell
    from csa.config.schema import Config
    from csa.console import PlainConsole
    from csa.sweep.plan import Plan, PlannedRun, Settings
    from csa.sweep.processes import Ending, Slot

GROUPS = ("all", "many", "medium", "few")
SEED = "seed"
NOT_AVAILABLE = "not available"
BLANK = "blank in the paper"
MOST_MERGED, MOST_UNKNOWN = 10, 4


# --- plan=true --------------------------------------------------------------------------------


def print_plan(console: PlainConsole, plan: Plan, settings: Settings) -> None:
    to_do = settings.to_do(plan)
    configs = [run.config for run in to_do]
    slots = slots_of(settings.sweep, configs) if configs else []
    times = estimate(to_do, slots[0].threads if slots else 1, measure=settings.sweep.calibrate)
    console.print(_plan_table(plan, times))
    for run in plan.merged[:MOST_MERGED]:
        names = [" ".join(cell.words) for cell in run.cells]
        more = f", and {len(names) - 2} more cells" if len(names) > 2 else ""
        console.print(f"one run: {names[0]} | {names[1]}{more}")
    for text in plan.unreadable():
        console.print(f"cannot be read: {text}")
    console.print(counted(plan))
    console.print(_time(plan, times, slots, configs))


def _plan_table(plan: Plan, times: Estimate) -> FoldedTable:
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
        seconds = sum(times.seconds.get(run.fingerprint, 0) for run in runs)
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
    counts = [f"{count} {state}" for state, count in plan.counts().items()]
    if plan.missing:
        counts.append(
            f"{len(plan.missing)} {NOT_AVAILABLE} ({', '.join(dict.fromkeys(name for _, name in plan.missing))})"
        )
    duplicates = f" ({merged} duplicates merged)" if merged else ""
    return f"{counting(plan.cells, 'cell')}, {counting(len(plan.runs), 'run')}{duplicates}: {', '.join(counts)}"


def _time(plan: Plan, times: Estimate, slots: Sequence[Slot], configs: Sequence[Config]) -> str:
    lines = []
    if plan.absent_data:
        lines.append(f"not here yet, and downloaded by the first run: {', '.join(sorted(plan.absent_data))}")
    if times.seconds:
        lines.append(f"estimated: {duration(times.wall(len(slots)))} ({in_words(slots, configs)})")
    elif not times.unknown:
        lines.append("nothing is left to do")
    if times.unknown:
        more = len(times.unknown) - MOST_UNKNOWN
        others = f"; and {more} other kinds of run" if more > 0 else ""
        lines.append(f"no time is known of: {'; '.join(times.unknown[:MOST_UNKNOWN])}{others}")
    return "\n".join(lines)


# --- at the end -------------------------------------------------------------------------------


def print_summary(console: PlainConsole, plan: Plan, endings: dict[str, Ending]) -> int:
    """Print it; the number of runs that failed, now or before, or are done and cannot be read."""
    if any(run.state == "done" for run in plan.runs):
        console.print(accuracy_table(plan))
    unreadable = plan.unreadable()
    for problem in unreadable:
        console.print(f"left out: {problem}")
    failed = print_failures(console, plan, endings) + len(unreadable)
    counts = Counter(_how(run, endings) for run in plan.runs)
    text = ", ".join(f"{counts[state]} {state}" for state in (*STATES, "killed") if counts[state])
    if plan.missing:
        names = ", ".join(dict.fromkeys(name for _, name in plan.missing))
        text += f"; {len(plan.missing)} cells are not available ({names})"
    console.print(f"{counting(len(plan.runs), 'run')}: {text}")
    return failed


def _how(run: PlannedRun, endings: dict[str, Ending]) -> str:
    """The state of its record, but for a run that has left none."""
    if run.fingerprint in endings and endings[run.fingerprint].refused:
        return "failed"
    return "killed" if run.state == "planned" and has_failed(run, endings) else run.state


def print_failures(console: PlainConsole, plan: Plan, endings: dict[str, Ending]) -> int:
    """Each with its folder and the last lines that say why; their number."""
    failed = [run for run in plan.runs if has_failed(run, endings)]
    for run in failed:
        console.print(Text("failed", "bold red"), end="")
        console.print(f": {plan.label(run)}\n  {run.folder}")
        text = endings[run.fingerprint].reason if run.fingerprint in endings else reason(run.folder)
        for line in text.splitlines():
            console.print(f"  | {line}")
    if any(run.fingerprint not in endings for run in failed):
        console.print("failed before, and not started again: sweep.retry_failed=true does")
    return len(failed)


def has_failed(run: PlannedRun, endings: dict[str, Ending]) -> bool:
    """In this start, or before and not since."""
    ending = endings.get(run.fingerprint)
    return ending.how == "failed" if ending is not None else run.state == "failed"


def accuracy_table(plan: Plan) -> FoldedTable:
    """A row for each cell but its seed: test accuracies in percent at the last epoch, mean and deviation over seeds."""
    keys, rows = _by_cell(plan)
    table = FoldedTable(title="test accuracy in %, last epoch, mean over seeds", title_justify="left")
    for key in keys or ["run"]:
        table.add_column(key)
    for group in GROUPS:
        table.add_column(group, justify="right")
    table.add_column("seeds", justify="right")
    for names, results in rows.items():
        cells = [_mean([result[group] for result in results]) for group in GROUPS]
        collapsed = sum(bool(result.get("collapsed")) for result in results)
        seeds = f"{len(results)}, {collapsed} collapsed" if collapsed else str(len(results))
        table.add_row(*(names or (results[0]["run"]["method"],)), *cells, seeds)
    return table


def means(plan: Plan) -> dict[str, dict[str, float]]:
    """Of each cell but its seed, by what varies (``crt``, ``csa 0.3``): mean accuracies in percent, and ``seeds``."""
    _, rows = _by_cell(plan)
    found = {}
    for names, results in rows.items():
        known = {group: [value for one in results if (value := one[group]) is not None] for group in GROUPS}
        averages = {group: mean(values) for group, values in known.items() if values}
        name = " ".join(filter(None, names)) or str(results[0]["run"]["method"])
        found[name] = {**averages, "seeds": float(len(results))}
    return found


def _by_cell(plan: Plan) -> tuple[list[str], dict[tuple[str, ...], list[dict[str, Any]]]]:
    """What varies beside the seed; of each cell's values of it the results of its seeds."""
    keys = [key for key in swept_keys([run.cells[0] for run in plan.runs]) if key != SEED]
    rows: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for run in plan.runs:
        result = run.record.finished()
        if result is not None:
            settings = dict(run.cells[0].settings)
            rows.setdefault(tuple(settings.get(key, "") for key in keys), []).append(result)
    return keys, rows


def _mean(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    average = two_decimals(mean(known) if known else None)
    return f"{average} {PLUS_MINUS} {stdev(known):.2f}" if len(known) > 1 else average
