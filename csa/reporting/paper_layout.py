"""Tables 1 to 5 in the paper's own layout: methods by data sets, published beside measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from csa.reporting.layout import COLLAPSED, OUTSIDE, Cell, Grid, Section, as_printed, is_none, listed, number, spans
from csa.reporting.names import printed
from csa.reporting.notes import LEGEND_OF_PAPER, RULES
from csa.reporting.published import METRICS, PLACE
from csa.reporting.tables import beside_paper

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pandas as pd

TITLES = {
    1: "Test accuracy (%) of cross-entropy on uniform batches (CE), classifier re-training (cRT) and class-balanced "
    "re-sampling (CB-RS)",
    2: "Test accuracy (%) on CIFAR-100-LT and CIFAR-10-LT at imbalance ratios 100, 50 and 10",
    3: "Test accuracy (%) on ImageNet-LT",
    4: "Test accuracy (%) of CSA with and without its context bank Q",
    5: "Test accuracy (%) of CSA under several thresholds δ",
}


def paper_sections(
    frame: pd.DataFrame, tables: Sequence[int], *, head: str = "", groups: str = "rank"
) -> list[Section]:
    """Tables 1 to 5: methods by data sets, published beside measured."""
    beside = beside_paper(frame, head=head, groups=groups)
    return [_paper_section(number, beside[beside["table"] == number]) for number in tables]


def _paper_section(number_: int, cells: pd.DataFrame) -> Section:
    places = list(dict.fromkeys(_place(cell) for cell in cells.to_dict("records")))
    columns = [(place, metric) for place in places for metric in METRICS if _has(cells, place, metric)]
    by_key = {(cell["row"], _place(cell), cell["metric"]): cell for cell in cells.to_dict("records")}
    rows = []
    for row in dict.fromkeys(cells["row"]):
        found = [by_key.get((row, place, metric)) for place, metric in columns]
        rows.append((Cell(row, row), *(_pair(cell) for cell in found)))
    spans_ = [(place, sum(other == place for other, _ in columns)) for place in places]
    name, title = f"table{number_}", f"Table {number_} of the paper"
    headings = ("method", *(printed(metric) for _, metric in columns))
    grid = Grid(name, title, headings, tuple(rows), tuple((_heading(place), width) for place, width in spans_))
    return Section(name, title, f"{TITLES[number_]}.", grid, tuple(_paper_legend(cells)), (), cells)


def _place(cell: dict[str, Any]) -> tuple[str, float | None, str]:
    ratio = cell["imbalance_ratio"]
    return cell["dataset"], None if is_none(ratio) else ratio, cell["backbone"]


def _has(cells: pd.DataFrame, place: tuple[str, float | None, str], metric: str) -> bool:
    return any(_place(cell) == place and cell["metric"] == metric for cell in cells.to_dict("records"))


def _heading(place: tuple[str, float | None, str]) -> str:
    dataset, ratio, backbone = place
    return f"{printed(dataset)}, {printed(backbone)}" if ratio is None else f"{printed(dataset)}, ratio {ratio:g}"


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
        seeds = measured.drop_duplicates([*PLACE]).groupby(["dataset"], sort=False)["n"].agg(lambda n: spans(list(n)))
        yield f"Runs of a cell: {'; '.join(f'{printed(str(name))} {n}' for name, n in seeds.items())}."
    yield from _epochs(cells[cells["value"].notna()])
    if (cells["digits"] == "truncated").any():
        names = list(dict.fromkeys(printed(name) for name in cells[cells["digits"] == "truncated"]["dataset"]))
        yield f"Published values of {listed(names)} are cut off after their last digit, not rounded."
    if (measured["outside"] == True).any():  # noqa: E712 (None beside booleans)
        yield LEGEND_OF_PAPER[LEGEND_OF_PAPER.index(OUTSIDE) :]
    if len(measured) and (measured["collapsed"] > 0).any():
        yield f"{COLLAPSED} Collapsed runs are among these: their network predicts a single class."
    yield f"{cells['citation'].iloc[0]}."


def _epochs(cells: pd.DataFrame) -> Iterator[str]:
    """Of which epoch the published values are; where rows or data sets differ, of which."""
    datasets = {rule: list(dict.fromkeys(those["dataset"])) for rule, those in cells.groupby("rule", sort=False)}
    for (rule, note), those in cells.groupby(["rule", "note"], sort=False):
        rows = list(dict.fromkeys(those["row"]))
        same = len(datasets) == 1 or sum(set(datasets[rule]) <= set(other) for other in datasets.values()) > 1
        if len(rows) == cells["row"].nunique():
            who = "" if len(datasets) == 1 else f"{listed([printed(name) for name in datasets[rule]])}: "
        else:
            who = "" if same and len(rows) > cells["row"].nunique() / 2 else f"{', '.join(rows)}: "
        ours = "" if rule in ("last", "best_on_test") else "; compared with our epoch that was best on the test set"
        told = f"{who}{note or 'at ' + RULES[rule]}{ours}."
        yield f"Published values are of {RULES[rule]}." if not who and not note else told[0].upper() + told[1:]
