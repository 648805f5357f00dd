"""The paper's tables and figures, published value beside measured.

python -m csa.report                              everything: shown here, written to reports/
python -m csa.report source=records               the same from the exported records alone
python -m csa.report table=2                      one table
python -m csa.report table=2 format=latex         markdown, latex, csv or html, on the standard output
python -m csa.report compare=csa,ce               is one method better than another, wherever both have runs?
python -m csa.report table=1 include=reduced      shortened runs too, marked
python -m csa.report figure=4                     one figure, as PNG and SVG
python -m csa.report figure=2 source=records      one of networks, from its points where these are kept

table    1 to 5
figure   2, 3, 4, 10, 11, delta, per_class, curves, counts, reliability, contexts
compare  two or more methods, with commas between them
format   terminal, markdown, latex, csv, html
source   all, runs (run folders), records (exported ones), mlflow; a run that is in several is taken from the first
include  whole, reduced
head     a head to show instead of the one that stands for each run, where a method has it
groups   rank (the paper's), count (many > 100, few < 20 training images)
methods  those that a figure shows, with commas between them
records  the folder of exported records (reports/records)
to       the folder that files go to (reports; of figure=... reports/figures, outputs/figures if drawn from networks)
output_root=folder, data_dir=folder, dataset=name, seed=number and tracking.uri=... are as in csa.run.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from csa.cli import answer_help, reporting_faults, say
from csa.config.faults import Fault, UserError, nearest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from csa.config.schema import Config
    from csa.reporting.cells import View
    from csa.reporting.comparisons import Comparisons
    from csa.reporting.page import Drawn
    from csa.reporting.sources import Found
    from csa.reporting.tables import Table

FORMATS = ("terminal", "markdown", "latex", "csv", "html")
WORDS: dict[str, tuple[str, ...]] = {
    "table": ("", "1", "2", "3", "4", "5"),
    "figure": (),
    "compare": (),
    "format": FORMATS,
    "source": ("all", "runs", "records", "mlflow"),
    "include": ("whole", "reduced"),
    "head": (),
    "groups": ("rank", "count"),
    "methods": (),
    "records": (),
    "to": (),
}
RECORDS, REPORTS = "reports/records", "reports"
MOST_NOTES = 5


@dataclass(frozen=True)
class Order:
    """What the command asks for. named: the keys that it gives."""

    config: Config
    own: dict[str, str]
    named: frozenset[str]

    @property
    def records(self) -> Path:
        return Path(self.own["records"] or RECORDS).expanduser()

    @property
    def to(self) -> Path:
        return Path(self.own["to"] or REPORTS).expanduser()


def main(words: list[str]) -> int:
    """The exit status: 1 where a record had to be left out."""
    answer_help(words, __doc__)
    from csa.config.preflight import configure

    with reporting_faults():
        config, own = configure(words, extra=WORDS)
        order = Order(config, own, frozenset(word.partition("=")[0] for word in words))
        _check(order)
        found = collect(order)
        _tell(found, order)
        if own["figure"]:
            _draw(order, found)
        elif own["compare"]:
            _show_comparisons(order, found)
        else:
            _show_tables(order, found)
        return 1 if found.left_out else 0


def _check(order: Order) -> None:
    own, faults = order.own, []
    chosen = [key for key in ("table", "figure", "compare") if own[key]]
    if len(chosen) > 1 and "figure" in chosen:
        faults.append(Fault("figure", own["figure"], f"stands beside {chosen[0]}=", "one of the two"))
    if own["figure"]:
        from csa.figures.drawing import NAMES

        if own["figure"] not in NAMES:
            near = nearest(own["figure"], NAMES)
            faults.append(Fault("figure", own["figure"], "there is no such figure", ", ".join(NAMES), near))
        if "format" in order.named:
            faults.append(Fault("format", own["format"], "is not used by figure=", "nothing: figures are PNG and SVG"))
    if own["compare"] and len(set(own["compare"].split(","))) < 2:
        faults.append(Fault("compare", own["compare"], "needs methods to compare", "two or more names, as in csa,ce"))
    reads_records = own["source"] in ("all", "records")
    if "records" in order.named and reads_records and not order.records.is_dir():
        faults.append(Fault("records", own["records"], "is no folder", "a folder of exported records"))
    if faults:
        raise UserError(*faults)


# --- the runs -------------------------------------------------------------------------------


def collect(order: Order) -> Found:
    """Runs of the chosen sources, each fingerprint once."""
    from csa.reporting.sources import Found, from_folders, from_records

    source, found = order.own["source"], Found()
    if source in ("all", "runs"):
        found.add(from_folders(Path(order.config.output_root).expanduser()))
    if source in ("all", "records"):
        found.add(from_records(order.records))
    if source in ("all", "mlflow"):
        _add_mlflow(found, order)
    return found


def _add_mlflow(found: Found, order: Order) -> None:
    """A store that cannot be reached is a fault only where nothing but MLflow was asked for."""
    from csa.reporting.mlflow_source import from_mlflow, uri_of

    tracking = order.config.tracking
    uri = uri_of(tracking)
    if uri is None:
        if order.own["source"] == "mlflow":
            raise UserError(Fault("source", "mlflow", "there is no MLflow store here", "tracking.uri=<its address>"))
        return
    try:
        found.add(from_mlflow(uri, tracking.experiment, {run.fingerprint for run in found.runs}))
    except UserError as error:
        if order.own["source"] == "mlflow":
            raise
        found.notes += [f"{fault}; runs that only MLflow has are missing" for fault in error.faults]


def _tell(found: Found, order: Order) -> None:
    """What is not in the report, and why."""
    for text in found.left_out:
        say(f"left out: {text}", aside=True)
    for text in found.notes[:MOST_NOTES]:
        say(f"note: {text}", aside=True)
    if len(found.notes) > MOST_NOTES:
        say(f"note: and {len(found.notes) - MOST_NOTES} more like these", aside=True)
    if not found.runs:
        looked = {
            "runs": order.config.output_root,
            "records": order.own["records"] or RECORDS,
            "mlflow": order.config.tracking.uri or "MLflow",
        }
        places = ", ".join(looked.values()) if order.own["source"] == "all" else looked[order.own["source"]]
        say(f"note: no finished run is recorded ({places}); tables hold the published values only", aside=True)


# --- tables and comparisons -----------------------------------------------------------------


def view_of(own: dict[str, str]) -> View:
    from csa.reporting.cells import View

    return View(own["head"], own["groups"] == "count")


def tables_of(order: Order, found: Found) -> list[Table]:
    from csa.reporting.fitting import fitting
    from csa.reporting.published import load_published, paper_folder
    from csa.reporting.tables import build_tables

    published = load_published(paper_folder())
    wanted = {number: cells for number, cells in published.items() if order.own["table"] in ("", number)}
    with fitting() as judge:
        reduced = order.own["include"] == "reduced"
        return build_tables(wanted, found.runs, judge, view_of(order.own), reduced=reduced)


def _show_tables(order: Order, found: Found) -> None:
    from csa.reporting.comparisons import compare_table
    from csa.reporting.heads import heads_table
    from csa.reporting.writing import write_report

    tables = tables_of(order, found)
    heads = [] if order.own["head"] else [by_head for table in tables if (by_head := heads_table(table))]
    comparisons = [compare_table(table) for table in tables]
    chosen = order.own["table"] or "format" in order.named
    shown = tables if chosen else [table for table in tables if any(table.measured())]
    _print(order.own["format"], [*shown, *heads], [one for one in comparisons if one.rows])
    shown_runs = {run.fingerprint for table in tables for one in table.measured() for run in one.runs}
    others = sum(run.fingerprint not in shown_runs for run in found.runs)
    if others and not order.own["table"]:
        why = "shortened (include=reduced shows them), or of settings that the paper's tables have not"
        say(f"note: of {len(found.runs)} runs {others} stand in no table: {why}", aside=True)
    if not chosen or order.own["to"]:
        figures = _figures(order, found)
        say(write_report(order.to, [*tables, *heads], comparisons, figures))
        _send(order, figures)


def _figures(order: Order, found: Found) -> list[Drawn]:
    """Those of a whole report: what can be drawn from records alone."""
    if order.own["table"]:
        return []
    from csa.figures.drawing import drawn_from_records
    from csa.figures.points import drawn_from_points
    from csa.reporting.fitting import fitting

    figures, reduced = [], order.own["include"] == "reduced"
    if order.own["source"] in ("all", "records"):
        with fitting() as judge:
            for one in drawn_from_points(order.records, found.runs, judge, reduced=reduced):
                if isinstance(one, str):
                    found.left_out.append(one)
                    say(f"left out: {one}", aside=True)
                else:
                    figures.append(one)
    return figures + drawn_from_records(found.runs, reduced=reduced)


def _show_comparisons(order: Order, found: Found) -> None:
    from csa.reporting.comparisons import compare_methods
    from csa.reporting.runs import unrecorded

    names = order.own["compare"].split(",")
    if faults := unrecorded("compare", names, found.runs):
        raise UserError(*faults)
    _print(order.own["format"], [], [compare_methods(found.runs, names, view_of(order.own))])


def _print(form: str, tables: Sequence[Table], comparisons: Sequence[Comparisons]) -> None:
    if form == "terminal":
        from csa.console import PlainConsole
        from csa.reporting.terminal import print_comparisons, print_table

        console = PlainConsole()
        for table in tables:
            print_table(console, table)
        for one in comparisons:
            print_comparisons(console, one)
        return
    from csa.reporting.writing import as_text

    print(as_text(form, tables, comparisons), end="")


# --- figures --------------------------------------------------------------------------------


def _draw(order: Order, found: Found) -> None:
    """What needs networks goes beside the runs, where git does not look; the others into the report.

    The points of Figures 2 and 10 are kept with the exported records of their runs, if there are such.
    """
    from csa.figures.drawing import FROM_RECORDS, draw, wish
    from csa.figures.points import keep

    wanted = wish(order.own, order.named, order.config)
    records = order.records if order.own["source"] == "records" else None
    beside = REPORTS if records or wanted.name in FROM_RECORDS else order.config.output_root
    to = Path(order.own["to"] or f"{beside}/figures").expanduser()
    drawn = draw(wanted, order.config, found.runs, to, records)
    if told := keep(drawn, order.records):
        say(told)
    _send(order, [drawn])


def _send(order: Order, figures: Sequence[Drawn]) -> None:
    """Figures into MLflow, where it has their runs; a report from the repository alone asks no store."""
    from csa.reporting.mlflow_figures import send
    from csa.reporting.mlflow_source import uri_of

    tracking = order.config.tracking
    uri = uri_of(tracking)
    if uri is None or not tracking.mlflow or order.own["source"] in ("runs", "records"):
        return
    try:
        number = send(figures, uri, tracking.experiment)
    except UserError as error:
        say(f"note: {error}; the figures are not there", aside=True)
        return
    if number:
        say(f"also in {number} run{'' if number == 1 else 's'} of MLflow, under figures/")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
