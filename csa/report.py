"""What was measured: a table a data set, the paper's tables with published beside measured values, figures.

python -m csa.report                              everything: shown here, written to outputs/report
python -m csa.report source=records to=reports    from the exported records alone, into the repository
python -m csa.report dataset=mnist_lt             one data set (dataset.name=birds: of your own)
python -m csa.report format=latex                 markdown, latex, csv or html, on the standard output
python -m csa.report detail=full                  every head, further measures and tests as well
python -m csa.report layout=paper                 the paper's Tables 1 to 5, and that of methods of today
python -m csa.report table=2                      one of them
python -m csa.report compare=csa,ce               is one method better than another, wherever both have runs?
python -m csa.report figure=per_class             one figure, as PNG and SVG
python -m csa.report figure=2 source=records      one of networks, from its points where these are kept

table     1 to 5, modern
figure    2, 3, 4, 10, 11, contexts; of any data set forest, per_class, curves, confusion, reliability, counts, delta
compare   two or more methods, with commas between them
baseline  the method that the others are compared with (ce)
format    terminal, markdown, latex, csv, html
detail    short, full
layout    data (a table a data set), paper
source    all, runs (run folders), records (exported ones), mlflow; a run that is in several is taken from the first
head      a head to show instead of the one that stands for each run, where a method has it
groups    rank (the paper's), count (many > 100, few < 20 training images)
methods   those that are shown, with commas between them
records   the folder of exported records (reports/records)
to        the folder that files go to (outputs/report; of figure=... outputs/figures)
output_root=folder, data_dir=folder, dataset=name, seed=number, tracking.uri=... and --config-dir are as in csa.run.
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

    import pandas as pd

    from csa.config.schema import Config
    from csa.reporting.layout import Drawn, Section
    from csa.tracking.finding import Found

FORMATS = ("terminal", "markdown", "latex", "csv", "html")
WORDS: dict[str, tuple[str, ...]] = {
    "table": ("", "1", "2", "3", "4", "5", "modern"),
    "figure": (),
    "compare": (),
    "baseline": (),
    "format": FORMATS,
    "detail": ("short", "full"),
    "layout": ("data", "paper"),
    "source": ("all", "runs", "records", "mlflow"),
    "head": (),
    "groups": ("rank", "count"),
    "methods": (),
    "records": (),
    "to": (),
}
TAKES = ("output_root", "data_dir", "download", "dataset", "seed", "tracking")
RECORDS, REPORT = "reports/records", "report"
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

    def to(self, usual: str) -> Path:
        return Path(self.own["to"] or f"{self.config.output_root}/{usual}").expanduser()

    @property
    def shows_one_thing(self) -> bool:
        """Whether it asks for a part on the screen alone, and no files."""
        return bool({"table", "compare", "format", "layout"} & self.named) and "to" not in self.named


def main(words: list[str]) -> int:
    """The exit status: 1 where a record had to be left out."""
    answer_help(words, __doc__)
    from csa.request import configure

    with reporting_faults():
        config, own = configure(words, extra=WORDS, takes=TAKES)
        order = Order(config, own, frozenset(word.partition("=")[0] for word in words))
        _check(order)
        from csa.reporting.sections import comparison_section
        from csa.tracking.finding import collect

        found = collect(own["source"], Path(config.output_root).expanduser(), order.records, config.tracking)
        frame = _frame(found, order)
        _tell(found, order)
        if own["figure"]:
            _draw(order, frame)
        elif own["compare"]:
            _print(order, [comparison_section(frame, own["compare"].split(","), head=own["head"])])
        else:
            _report(order, frame, found)
        return 1 if found.left_out else 0


def _check(order: Order) -> None:
    own, faults = order.own, []
    chosen = [key for key in ("table", "figure", "compare") if own[key]]
    if len(chosen) > 1:
        faults.append(Fault(chosen[1], own[chosen[1]], f"stands beside {chosen[0]}=", "one of the two"))
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


def _frame(found: Found, order: Order) -> pd.DataFrame:
    """Of the runs that are meant: not those on made-up images, nor results that a correction changed since."""
    from csa.config.words import SMOKE
    from csa.reporting.frame import frame_of
    from csa.reporting.tables import unrecorded
    from csa.request import CONFIG_DIR

    meant = [run for run in found.runs if run.identity.get("variant") != SMOKE]
    frame = frame_of(meant, order.own[CONFIG_DIR] or None)
    smoke = len(found.runs) - len(meant)
    found.notes += [f"{smoke} runs of smoke=true are left out"] if smoke else []
    if len(frame):
        old = frame[frame["outdated"].astype(bool)]
        if number := old["fingerprint"].nunique():
            methods = ", ".join(sorted(set(old["method"])))
            found.notes.append(
                f"{number} runs ({methods}) are left out: their results were corrected since; the same command trains"
            )
        frame = frame[~frame["outdated"].astype(bool)]
    named = tuple(filter(None, order.own["methods"].split(",")))
    baseline = (order.own["baseline"],) if order.own["baseline"] else ()
    known = sorted(set(frame["method"]))
    faults = [*unrecorded("methods", named, known), *unrecorded("baseline", baseline, known)] if len(frame) else []
    if faults:
        raise UserError(*faults)
    return frame


def _tell(found: Found, order: Order) -> None:
    """On the standard error: what is not in the report, and why."""
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
            "mlflow": getattr(order.config.tracking, "uri", None) or "MLflow",
        }
        sources = ", ".join(looked.values()) if order.own["source"] == "all" else looked[order.own["source"]]
        say(f"note: no finished run is recorded ({sources}); the published values only", aside=True)


# --- tables and comparisons -----------------------------------------------------------------


def _sections(order: Order, frame: pd.DataFrame) -> list[Section]:
    from csa.reporting.sections import sections
    from csa.reporting.tables import BASELINE

    own = order.own
    shown = frame[frame["dataset"] == order.config.dataset.name] if {"dataset", "dataset.name"} & order.named else frame
    baseline = own["baseline"] or BASELINE
    if own["methods"]:
        shown = shown[shown["method"].isin([*own["methods"].split(","), baseline])]
    return sections(shown, baseline, head=own["head"], groups=own["groups"])


def _papers(order: Order, frame: pd.DataFrame) -> list[Section]:
    from csa.reporting.paper import TABLES, paper_sections

    own = order.own
    wanted = (own["table"],) if own["table"] else TABLES
    return paper_sections(frame, wanted, head=own["head"], groups=own["groups"])


def _print(order: Order, sections: Sequence[Section]) -> None:
    full = order.own["detail"] == "full"
    if order.own["format"] == "terminal":
        from csa.console import PlainConsole
        from csa.reporting.rendering import print_sections

        print_sections(PlainConsole(), sections, full=full)
        return
    from csa.reporting.rendering import as_text

    print(as_text(order.own["format"], sections, full=full), end="")


def _report(order: Order, frame: pd.DataFrame, found: Found) -> None:
    in_papers_layout = order.own["table"] or order.own["layout"] == "paper"
    sections = [] if in_papers_layout and order.shows_one_thing else _sections(order, frame)
    papers = [] if sections and order.shows_one_thing else _papers(order, frame)
    _print(order, papers if in_papers_layout or not sections else sections)
    if order.shows_one_thing:
        return
    from csa.figures.drawing import of_report
    from csa.figures.panel import looks_of
    from csa.figures.representation import drawn_from_points
    from csa.reporting.layout import as_csv
    from csa.reporting.rendering import write

    sections, alone = of_report(frame, sections, order.own["head"])
    for one in drawn_from_points(order.records, frame) if order.own["source"] in ("all", "records") else ():
        if isinstance(one, str):
            found.left_out.append(one)
            say(f"left out: {one}", aside=True)
        else:
            alone.append(one)
    figures = [drawn for section in sections for drawn in section.figures] + alone
    colours = {name: look["color"] for name, look in looks_of(frame).items()}
    if sections and not any((paper.data["n"] > 0).any() for paper in papers):
        papers = []  # nothing here is of the paper
    message = write(order.to(REPORT), sections, papers, figures, colours, as_csv(frame))
    _send(order, figures)
    say(message)


# --- figures --------------------------------------------------------------------------------


def _draw(order: Order, frame: pd.DataFrame) -> None:
    """The points of Figures 2 and 10 are kept with the exported records of their runs, if there are such."""
    from csa.figures import drawing
    from csa.figures.representation import keep

    wanted = drawing.wish(order.own, order.named, order.config)
    if wanted.name in drawing.MODELS and order.own["source"] == "records":
        found = [drawing.from_points(wanted, order.config.seed, frame, order.records)]
    elif wanted.name in drawing.MODELS:
        found = [drawing.from_models(wanted, order.config, frame)]
    elif wanted.name == "counts" and wanted.dataset:
        found = [drawing.of_data_set(order.config)]
    else:
        found = drawing.from_records(wanted, frame)
    drawing.write(found, order.to("figures"))
    for drawn in found:
        if message := keep(drawn, order.records):
            say(message)
    _send(order, found)


def _send(order: Order, figures: Sequence[Drawn]) -> None:
    """Figures into MLflow, where it has their runs; a report from the repository alone asks no store."""
    from csa.tracking.mlflow.artifacts import send
    from csa.tracking.mlflow.store import MlflowTracking, uri_of

    tracking = order.config.tracking
    if not isinstance(tracking, MlflowTracking) or order.own["source"] in ("runs", "records"):
        return
    if tracking.target is None or (uri := uri_of(tracking)) is None:
        return
    files: dict[str, dict[str, bytes]] = {}
    for drawn in figures:
        for fingerprint in drawn.fingerprints:
            of_the_run = files.setdefault(fingerprint, {})
            of_the_run |= {f"{drawn.name}.{ending}": content for ending, content in drawn.files.items()}
    try:
        number = send(files, uri, tracking.experiment)
    except UserError as error:
        say(f"note: {error}; the figures are not there", aside=True)
        return
    if number:
        say(f"also in {number} run{'' if number == 1 else 's'} of MLflow, under figures/")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
