"""Published tables, the paper's and that of methods of today: their values, what was measured for each, layout."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from csa.config.faults import Fault, UserError
from csa.config.locations import PACKAGE, shipped
from csa.reporting.frame import TABLE, one_head
from csa.reporting.layout import (
    COLLAPSED,
    MINUS,
    OUTSIDE,
    Cell,
    Grid,
    Section,
    as_printed,
    is_none,
    listed,
    number,
    printed,
    ranges,
    recipe,
)
from csa.reporting.statistics import ROUNDING, half_interval, half_prediction

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

PLACE = ("method", "dataset", "imbalance_ratio", "backbone", "settings")
"""What of a recorded run says which cell it belongs to; ``settings`` are the words beyond the other four."""
COLUMNS = ("table", "row", *PLACE, "metric", "value", "rule", "digits", "runs", "note", "citation")
METRICS = ("all", "many", "medium", "few")
NEAREST = {"last": "last", "best_on_test": "best", "best_on_validation": "best", "other": "best"}
"""Of each rule by which a published value was taken (its epoch), the recorded accuracy that is nearest to it."""
DIGITS = ("rounded", "truncated")
PAPER = ("paper", "paper_table", "rule", "note", "measured", "measured_half", "minus_paper", "outside")
RULES = {
    "last": "the last epoch",
    "best_on_test": "the epoch that was best on the test set",
    "best_on_validation": "the epoch that was best on validation images",
    "other": "another rule",
}
LEGEND_OF_PAPER = (
    f"{MINUS} paper: measured minus published value, both at the epoch by which that value was taken; {OUTSIDE} one "
    "published run lies outside when it is not in the 95 % prediction interval of a further run, mean ± t sd "
    "sqrt(1 + 1/n), or sqrt(1/m + 1/n) for the mean of m published runs."
)


class Published(NamedTuple):
    """name: of its file, and of those of a report; short: what a line calls it; about: what its values are."""

    name: str
    short: str
    title: str
    about: str


TABLES = {
    number: Published(
        f"table{number}", f"Table {number}", f"Table {number} of the paper", f"Test accuracy (%) {subject}."
    )
    for number, subject in {
        "1": "of cross-entropy on uniform batches (CE), classifier re-training (cRT) and class-balanced re-sampling "
        "(CB-RS)",
        "2": "on CIFAR-100-LT and CIFAR-10-LT at imbalance ratios 100, 50 and 10",
        "3": "on ImageNet-LT",
        "4": "of CSA with and without its context bank Q",
        "5": "of CSA under several thresholds δ",
    }.items()
} | {
    "modern": Published(
        "modern",
        "the table of methods of today",
        "Methods of today",
        "Test accuracy (%) of methods since 2021 on CIFAR-100-LT and CIFAR-10-LT, each line under the recipe that it "
        "names: CSA's (cifar: 200 epochs, crops and flips), strong augmentation (cifar_strong), and each method's own.",
    )
}
"""By the word that asks for them, in the order of a report."""


# --- published ------------------------------------------------------------------------------


def paper_folder() -> Path:
    """Inside an installed wheel, or ``reports/paper`` of a checkout."""
    inside = PACKAGE / "paper"
    return inside if inside.is_dir() else PACKAGE.parent / "reports" / "paper"


@cache
def load_published(folder: Path | None = None) -> pd.DataFrame:
    """A row a cell of TABLES, in their order, with COLUMNS.

    imbalance_ratio: NaN where a data set has none; value: percent, NaN where nothing is published;
    rule: the epoch that it is of; digits: how it was shortened to those printed; runs: of which it is
    the mean; note: how it was chosen or made, where that is not as ours. What csa does not have has a
    place that no run has: a network of another name, or a word with the value ``?``, which is not told.

    Read once, and not to be changed.

    Raises:
        UserError: a file is missing or damaged.
    """
    folder = folder or paper_folder()
    return pd.concat([_load(folder / f"{table.name}.csv") for table in TABLES.values()], ignore_index=True)


def _load(path: Path) -> pd.DataFrame:
    numbers = {"imbalance_ratio": "float64", "value": "float64", "runs": "int64"}
    types = numbers | {name: "str" for name in (*COLUMNS, "words") if name not in numbers}
    cells = _read("published values", path, COLUMNS, dtype=types, na_values={name: [""] for name in numbers})
    for column, known in (("metric", METRICS), ("rule", NEAREST), ("digits", DIGITS)):
        if strange := sorted(set(cells[column]) - set(known)):
            raise UserError(Fault("published values", path, f"has {column} {', '.join(strange)}", ", ".join(known)))
    return cells


def range_of(value: float, digits: str) -> tuple[float, float]:
    """The numbers that are printed as ``value``: 45.6 truncated is of 45.6 to 45.7, rounded of 45.55 to 45.65."""
    unit = 10.0 ** -len(f"{value:.6f}".rstrip("0").partition(".")[2] or "0")
    return (value, value + unit) if digits == "truncated" else (value - unit / 2, value + unit / 2)


def known_orders() -> dict[str, str]:
    """File order of the training subsets that are known, by hash. Raises UserError where the file is damaged."""
    subsets = _read("training subsets", paper_folder() / "subsets.csv", ("split", "order"), dtype="str")
    return dict(subsets.itertuples(index=False, name=None))


def _read(what: str, path: Path, columns: Sequence[str], **types: Any) -> pd.DataFrame:
    try:
        cells = pd.read_csv(path, keep_default_na=False, **types)
        return cells.rename(columns={"words": "settings"})[list(columns)]
    except (OSError, KeyError, ValueError, TypeError) as error:
        problem = f"cannot be read ({type(error).__name__}: {error})"
        raise UserError(Fault(what, path, problem, f"a table with {', '.join(columns)}")) from error


# --- beside measured ------------------------------------------------------------------------


def beside_paper(frame: pd.DataFrame, *, head: str = "", groups: str = "rank") -> pd.DataFrame:
    """The published cells of TABLES, in their order, each with what was measured for it.

    Added: n, ``measured`` under the cell's own rule or the nearest, ``measured_half`` (of the 95 % interval of the
    mean), ``last``, ``minus_paper``, ``outside``, ``collapsed``, ``fingerprints``; NaN where nothing was run.
    """
    shown = one_head(frame, head, groups)
    published = load_published()
    runs = dict(list(shown.groupby([column for _, column in places(shown).items()])))
    cells = zip(published.to_dict("records"), places(published).itertuples(index=False, name=None), strict=True)
    return published.join(pd.DataFrame([_measured(cell, runs.get(place)) for cell, place in cells]))


def places(rows: pd.DataFrame) -> pd.DataFrame:
    """PLACE of each, in which a ratio that there is not equals another."""
    return rows[list(PLACE)].astype(object).fillna("")


def _measured(cell: Mapping[str, Any], runs: pd.DataFrame | None) -> dict[str, Any]:
    """Of the runs at the cell's place; of several subsets of its images that with most runs."""
    if runs is None:
        return {"n": 0, "measured": math.nan, "outside": None}
    subsets = runs["split"].value_counts()
    runs = runs[runs["split"] == min(subsets.index, key=lambda split: (-subsets[split], split))]
    values = list(runs[f"{NEAREST[cell['rule']]}_{cell['metric']}"])
    mean = float(np.mean(values))
    minus, half, outside = math.nan, half_prediction(values, int(cell["runs"])), None
    if not math.isnan(cell["value"]):
        minus = mean - cell["value"]
        if not math.isnan(half):
            low, high = range_of(cell["value"], cell["digits"])
            outside = bool(high < mean - half - ROUNDING or low > mean + half + ROUNDING)
    return {
        "n": len(runs),
        "measured": mean,
        "measured_half": half_interval(values),
        "last": float(runs[f"last_{cell['metric']}"].mean()),
        "minus_paper": minus,
        "outside": outside,
        "collapsed": int(runs["collapsed"].sum()),
        "line": runs["line"].iloc[0],
        "fingerprints": " ".join(runs["fingerprint"]),
    }


def beside_cells(cells: pd.DataFrame, runs: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Of each measured cell the published value of all classes: from the table that has most of its lines.

    runs: of each cell, at the place that its index says.
    """
    published = load_published()
    published = published[(published["metric"] == "all") & published["value"].notna()]
    found = cells[[*TABLE, *PLACE]].reset_index().merge(published, on=list(PLACE))
    found["lines"] = found.groupby([*TABLE, "table"])["index"].transform("size")
    found = found.sort_values(["lines", "table"], ascending=[False, True], kind="stable").drop_duplicates("index")
    measured = [_measured(cell, runs[cell["index"]]) for cell in found.to_dict("records")]
    found = found.join(pd.DataFrame(measured, index=found.index)).set_index("index")
    return found.rename(columns={"value": "paper", "table": "paper_table"}).reindex(columns=list(PAPER))


# --- the paper's layout ---------------------------------------------------------------------


def paper_sections(
    frame: pd.DataFrame, tables: Iterable[str], *, head: str = "", groups: str = "rank"
) -> list[Section]:
    """Methods by data sets, published beside measured; tables: of TABLES."""
    beside = beside_paper(frame, head=head, groups=groups)
    return [_paper_section(TABLES[name], beside[beside["table"] == name]) for name in tables]


def _paper_section(table: Published, cells: pd.DataFrame) -> Section:
    cells = cells.assign(heading=[_heading(cell) for cell in cells.to_dict("records")])
    columns = list(cells[["heading", "metric"]].drop_duplicates().itertuples(index=False, name=None))
    places = list(dict.fromkeys(cells["heading"]))
    columns = [(place, metric) for place in places for metric in METRICS if (place, metric) in columns]
    by_key = {(cell["row"], cell["heading"], cell["metric"]): cell for cell in cells.to_dict("records")}
    rows = []
    for row in dict.fromkeys(cells["row"]):
        found = [by_key.get((row, place, metric)) for place, metric in columns]
        rows.append((Cell(row, row), *(_pair(cell) for cell in found)))
    groups = tuple((place, sum(other == place for other, _ in columns)) for place in places)
    headings = ("method", *(printed(metric) for _, metric in columns))
    grid = Grid(table.name, table.title, headings, tuple(rows), groups)
    data = cells.drop(columns="heading")
    return Section(table.name, table.title, table.about, grid, tuple(_paper_legend(cells)), (), data)


def _heading(cell: dict[str, Any]) -> str:
    dataset, ratio = printed(cell["dataset"]), cell["imbalance_ratio"]
    return f"{dataset}, {printed(cell['backbone'])}" if is_none(ratio) else f"{dataset}, ratio {ratio:g}"


def _pair(cell: dict[str, Any] | None) -> Cell:
    """``65.8 / 58.2``: published, measured."""
    if cell is None:
        return Cell("")
    published = as_printed(cell["value"])
    if not cell["n"]:
        return Cell(published, None)
    digits = 2 if len(published.partition(".")[2]) > 1 else 1
    marks = (OUTSIDE if cell["outside"] is True else "") + (COLLAPSED if cell["collapsed"] else "")
    return Cell(
        f"{published} / {number(cell['measured'], digits)}{marks}",
        cell["measured"],
        "marked" if OUTSIDE in marks else "",
    )


def _paper_legend(cells: pd.DataFrame) -> Iterator[str]:
    measured = cells[cells["n"] > 0]
    yield "Published / measured, percent, mean over seeds; a published value alone: nothing was run."
    if len(measured):
        seeds = measured.drop_duplicates([*PLACE]).groupby(["dataset"], sort=False)["n"].agg(lambda n: ranges(list(n)))
        yield f"Runs of a cell: {'; '.join(f'{printed(str(name))} {n}' for name, n in seeds.items())}."
    yield from _epochs(cells[cells["value"].notna()])
    if (cells["digits"] == "truncated").any():
        names = list(dict.fromkeys(printed(name) for name in cells[cells["digits"] == "truncated"]["dataset"]))
        yield f"Published values of {listed(names)} are cut off after their last digit, not rounded."
    if (measured["outside"] == True).any():  # noqa: E712 (None beside booleans)
        yield LEGEND_OF_PAPER[LEGEND_OF_PAPER.index(OUTSIDE) :]
    if len(measured) and (measured["collapsed"] > 0).any():
        yield f"{COLLAPSED} Collapsed runs are among these: their network predicts a single class."
    yield from _recipes(cells)
    sources = {source: list(dict.fromkeys(of["row"])) for source, of in cells.groupby("citation", sort=False) if source}
    yield from (f"{'' if len(sources) == 1 else '; '.join(rows) + ': '}{source}." for source, rows in sources.items())


def _recipes(cells: pd.DataFrame) -> Iterator[str]:
    """Of the recipes that the words of a table name, what they are."""
    words = dict.fromkeys(" ".join(cells["settings"]).split())
    blocks = [shipped("protocol", word.partition("=")[2]) for word in words if word.startswith("protocol=")]
    yield from (f"{recipe(block)}." for block in blocks if block is not None)


def _epochs(cells: pd.DataFrame) -> Iterator[str]:
    """Of which epoch the published values are; where rows or data sets differ, of which."""
    if cells["rule"].nunique() == 1 and (cells["note"] != "").any():
        yield f"Published values are of {RULES[cells['rule'].iloc[0]]}."
        for note, those in cells[cells["note"] != ""].groupby("note", sort=False):
            yield f"{'; '.join(dict.fromkeys(those['row']))}: {note}."
        return
    datasets = {rule: list(dict.fromkeys(those["dataset"])) for rule, those in cells.groupby("rule", sort=False)}
    for (rule, note), those in cells.groupby(["rule", "note"], sort=False):
        rows = list(dict.fromkeys(those["row"]))
        same = len(datasets) == 1 or sum(set(datasets[rule]) <= set(other) for other in datasets.values()) > 1
        if len(rows) == cells["row"].nunique():
            who = "" if len(datasets) == 1 else f"{listed([printed(name) for name in datasets[rule]])}: "
        else:
            who = "" if same and len(rows) > cells["row"].nunique() / 2 else f"{', '.join(rows)}: "
        ours = "" if rule in ("last", "best_on_test") else "; compared with our epoch that was best on the test set"
        sentence = f"{who}{note or 'at ' + RULES[rule]}{ours}."
        yield f"Published values are of {RULES[rule]}." if not who and not note else sentence[0].upper() + sentence[1:]
