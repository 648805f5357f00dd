"""The paper's values, from the data files in ``reports/paper/``."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from csa.config.faults import Fault, UserError
from csa.config.locations import PACKAGE

COLUMNS = ("table", "row", "method", "dataset", "imbalance_ratio", "backbone", "words", "metric", "value", "rule")
METRICS = ("all", "many", "medium", "few")
RULES = ("last", "best_on_test")
OWN_RECIPE = "protocol=published"
"""The word by which a place stands for a method under the recipe of its own paper."""
TABLES = ("1", "2", "3", "4", "5")


@dataclass(frozen=True)
class Place:
    """The configuration that a cell stands for; ``words`` are what it changes beyond the named groups."""

    method: str
    dataset: str
    imbalance_ratio: float | None
    backbone: str
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Published:
    """One cell of a published table. value: percent, None where the paper has a dash.

    rule: the epoch it was taken at, ``last`` or ``best_on_test``.
    """

    table: str
    row: str
    place: Place
    metric: str
    value: float | None
    rule: str
    citation: str


def paper_folder() -> Path:
    """Inside an installed wheel, or ``reports/paper`` of a checkout."""
    inside = PACKAGE / "paper"
    return inside if inside.is_dir() else PACKAGE.parent / "reports" / "paper"


def load_published(folder: Path) -> dict[str, list[Published]]:
    """The cells of each table, in the paper's order. Raises UserError where a file is missing or damaged."""
    return {number: _load(folder / f"table{number}.csv") for number in TABLES}


def _load(path: Path) -> list[Published]:
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            return [_cell(row) for row in csv.DictReader(stream)]
    except (OSError, KeyError, ValueError, TypeError) as error:
        problem = f"cannot be read ({type(error).__name__}: {error})"
        raise UserError(Fault("published values", path, problem, f"a table with {', '.join(COLUMNS)}")) from error


def _cell(row: dict[str, str]) -> Published:
    ratio = float(row["imbalance_ratio"]) if row["imbalance_ratio"] else None
    if row["metric"] not in METRICS or row["rule"] not in RULES:
        raise ValueError(f"metric {row['metric']!r}, rule {row['rule']!r}")
    return Published(
        table=row["table"],
        row=row["row"],
        place=Place(row["method"], row["dataset"], ratio, row["backbone"], tuple(row["words"].split())),
        metric=row["metric"],
        value=float(row["value"]) if row["value"] else None,
        rule=row["rule"],
        citation=row["citation"],
    )
