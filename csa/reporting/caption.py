"""What a table's caption says: protocol, heads, shot groups, machines, data, and what the marks mean."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING, Any

from csa.config.faults import Fault, UserError
from csa.reporting.layout import BEST, COLLAPSED, DIFFERENCE, INTERVAL, OUTSIDE, letter, reduced_kinds
from csa.reporting.names import printed
from csa.reporting.published import paper_folder
from csa.reporting.statistics import FEWEST_FOR_AN_INTERVAL

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from csa.reporting.runs import Run
    from csa.reporting.tables import Table

SHOWN_OF_A_HASH = 12
SUBSETS = "subsets.csv"
OTHER = "other"
DASHES = "A dash: no published value, or nothing was run."


def sentences(table: Table, orders: Mapping[str, str] | None = None) -> list[str]:
    """The caption, a sentence an item, the title first.

    orders: of each known training subset (hash) the file order it was drawn from.
    """
    runs = _runs(table)
    told = [f"{table.heading}. {table.title}."]
    if not runs:
        return [*told, "No run of it is recorded: the published values only.", DASHES]
    orders = known_orders() if orders is None else orders
    return [
        *told,
        _rows_sentence("head" if table.by_head else "method"),
        DASHES,
        _protocols(runs),
        _heads(table, runs),
        _groups(table, runs),
        _machines(runs),
        *_subsets(runs, orders),
        *_reduced(table),
        *_reused(runs),
        *_marks(table),
        *(f"{note}." for note in table.notes),
    ]


def _runs(table: Table) -> list[Run]:
    found = {run.fingerprint: run for measured in table.measured() for run in measured.runs}
    return [found[fingerprint] for fingerprint in sorted(found)]


def _rows_sentence(what: str) -> str:
    return (
        f"Of each {what}: the published value; test accuracy at the last epoch and at the epoch that was best on the "
        "test set, mean ± sample standard deviation over seeds; "
        f"“{DIFFERENCE}” compares under the rule of the published values (best epoch on the test set, wherever the "
        f"released code says); “{INTERVAL}” is half the width of the t interval around “{BEST}”; seeds, and minutes "
        "of a run's training and evaluation, mean over seeds."
    )


def _protocols(runs: Sequence[Run]) -> str:
    told: dict[str, set[str]] = {}
    for run in runs:
        told.setdefault(_protocol(run.config["protocol"]), set()).add(printed(run.dataset))
    parts = [f"{text} ({', '.join(sorted(datasets))})" for text, datasets in sorted(told.items())]
    return f"Protocol: {'; '.join(parts)}."


def _protocol(protocol: Mapping[str, Any]) -> str:
    return (
        f"{protocol['name']}, {protocol['epochs']} epochs, batch {protocol['batch_size']}, SGD with learning rate "
        f"{protocol['lr']:g}, momentum {protocol['momentum']:g}, weight decay {protocol['weight_decay']:g}, "
        f"{protocol['schedule']} schedule"
    )


def _heads(table: Table, runs: Sequence[Run]) -> str:
    heads: dict[str, set[str]] = {}
    for run in runs:  # of a table by head: those that stand for the runs in the other tables
        heads.setdefault(run.head(table.view.head), set()).add(printed(run.method))
    parts = [f"{head} ({', '.join(sorted(methods))})" for head, methods in sorted(heads.items())]
    chosen = "" if not table.view.head else f", {table.view.head} where a method has it"
    named = "The head that stands for a run elsewhere" if table.by_head else f"Head{chosen}"
    return f"{named}: {', '.join(parts)}."


def _groups(table: Table, runs: Sequence[Run]) -> str:
    rule = "by_count" if table.view.by_count else "by_rank"
    sizes: dict[str, set[str]] = {}
    for run in runs:
        groups = run.result["split"][rule]
        size = "/".join(str(len(groups[name])) for name in ("many", "medium", "few"))
        sizes.setdefault(size, set()).add(printed(run.dataset))
    parts = [f"{size} classes ({', '.join(sorted(datasets))})" for size, datasets in sorted(sizes.items())]
    rules = {
        "by_rank": "by class rank, as in the paper",
        "by_count": "by training images (many > 100, few < 20), not the paper's rule",
    }
    return f"Many/medium/few {rules[rule]}: {', '.join(parts)}."


def _machines(runs: Iterable[Run]) -> str:
    machines = sorted({f"{run.result['hardware']} ({run.result['precision']})" for run in runs})
    return f"Hardware: {'; '.join(machines)}."


def _reduced(table: Table) -> list[str]:
    kinds = reduced_kinds(table)
    parts = [f"{letter(kinds, kind)}: {kind}" for kind in kinds]
    told = "Reduced runs (shorter, or of another recipe), not comparable with published values: {}."
    return [told.format("; ".join(parts))] if parts else []


def _reused(runs: Iterable[Run]) -> list[str]:
    methods = sorted({printed(run.method) for run in runs if run.result.get("reused_epochs")})
    told = "The minutes of {} leave out a first stage that was taken from a finished run."
    return [told.format(", ".join(methods))] if methods else []


def _marks(table: Table) -> list[str]:
    measured = list(table.measured())
    told = []
    if any(one.outside for one in measured):
        told.append(f"{OUTSIDE} The published value lies outside the 95 % interval.")
    if any(one.interval is None for one in measured):
        told.append(f"n too small: fewer than {FEWEST_FOR_AN_INTERVAL} seeds.")
    if any(one.collapsed for one in measured):
        told.append(f"{COLLAPSED} Runs among these collapsed: their network predicts a single class.")
    return told


# --- the training subset --------------------------------------------------------------------


def known_orders(folder: Path | None = None) -> dict[str, str]:
    """File order of the training subsets that are known, by hash. Raises UserError where the file is damaged."""
    path = (folder or paper_folder()) / SUBSETS
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            return {row["split"]: row["order"] for row in csv.DictReader(stream)}
    except (OSError, KeyError, TypeError) as error:
        problem = f"cannot be read ({type(error).__name__}: {error})"
        raise UserError(Fault("training subsets", path, problem, "a table with split and order")) from error


def _subsets(runs: Sequence[Run], orders: Mapping[str, str]) -> list[str]:
    """Where the images differ from those that other code draws, or it is not known whether they do."""
    told = {
        OTHER: "The training subset of {} is drawn with the usual seed from files in another order than torchvision's, "
        "so it does not hold the same images.",
        "": "Whether the training subset of {} is the one that torchvision's file order gives is not known.",
    }
    names: dict[str, set[str]] = {}
    for run in runs:
        order = orders.get(run.split, "")
        names.setdefault(order, set()).add(f"{printed(run.dataset)} ({run.split[:SHOWN_OF_A_HASH]})")
    return [told[order].format(", ".join(sorted(names[order]))) for order in (OTHER, "") if order in names]
