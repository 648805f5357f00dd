"""The paper's values, from the data files in ``reports/paper/``."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from csa.config.faults import Fault, UserError
from csa.config.locations import PACKAGE

PLACE = ("method", "dataset", "imbalance_ratio", "backbone", "settings")
"""What of a recorded run says which cell it belongs to; ``settings`` are the words beyond the other four."""
COLUMNS = ("table", "row", *PLACE, "metric", "value", "rule", "digits", "runs", "note", "citation")
METRICS = ("all", "many", "medium", "few")
TABLES = (1, 2, 3, 4, 5)
NEAREST = {"last": "last", "best_on_test": "best", "best_on_validation": "best", "other": "best"}
"""Of each rule by which a published value was taken (its epoch), the recorded accuracy that is nearest to it."""
DIGITS = ("rounded", "truncated")


def paper_folder() -> Path:
    """Inside an installed wheel, or ``reports/paper`` of a checkout."""
    inside = PACKAGE / "paper"
    return inside if inside.is_dir() else PACKAGE.parent / "reports" / "paper"


def load_published(folder: Path | None = None) -> pd.DataFrame:
    """A row a cell of Tables 1 to 5, in the paper's order, with COLUMNS.

    imbalance_ratio: NaN where a data set has none; value: percent, NaN where the paper has a dash;
    rule: the epoch that it is of; digits: how it was shortened to those printed; runs: of which it is
    the mean; note: how it was chosen where that is no rule of ours.

    Raises:
        UserError: a file is missing or damaged.
    """
    folder = folder or paper_folder()
    return pd.concat([_load(folder / f"table{number}.csv") for number in TABLES], ignore_index=True)


def _load(path: Path) -> pd.DataFrame:
    numbers = {"table": "int64", "imbalance_ratio": "float64", "value": "float64", "runs": "int64"}
    types = numbers | {name: "str" for name in (*COLUMNS, "words") if name not in numbers}
    allowed = f"a table with {', '.join(COLUMNS)}"
    try:
        cells = pd.read_csv(path, dtype=types, keep_default_na=False, na_values={name: [""] for name in numbers})
        cells = cells.rename(columns={"words": "settings"})[list(COLUMNS)]
    except (OSError, KeyError, ValueError, TypeError) as error:
        problem = f"cannot be read ({type(error).__name__}: {error})"
        raise UserError(Fault("published values", path, problem, allowed)) from error
    for column, known in (("metric", METRICS), ("rule", NEAREST), ("digits", DIGITS)):
        if strange := sorted(set(cells[column]) - set(known)):
            raise UserError(Fault("published values", path, f"has {column} {', '.join(strange)}", ", ".join(known)))
    return cells


def range_of(value: float, digits: str) -> tuple[float, float]:
    """The numbers that are printed as ``value``: 45.6 truncated is of 45.6 to 45.7, rounded of 45.55 to 45.65."""
    unit = 10.0 ** -len(f"{value:.6f}".rstrip("0").partition(".")[2] or "0")
    return (value, value + unit) if digits == "truncated" else (value - unit / 2, value + unit / 2)
