"""From the frame of runs to the numbers of tables: means over seeds, intervals, paired differences, the paper's values.

filter -> group by cell -> mean, intervals, paired differences -> merge with the paper
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from csa.config.faults import Fault, UserError, nearest
from csa.reporting.frame import ACCURACIES, CELL, GROUPS, OTHERS
from csa.reporting.published import NEAREST, PLACE, load_published, range_of
from csa.reporting.statistics import (
    FEWEST_FOR_A_TEST,
    ROUNDING,
    half_interval,
    half_prediction,
    holm,
    mcnemar,
    paired_p,
    twice_the_median,
    verdict,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from csa.reporting.run import Run

BASELINE = "ce"
TABLE = ["data", "recipe"]
OF_A_LINE = ("method", "settings", "dataset", "imbalance_ratio", "backbone", "protocol", "shortened", "split")
PAIRED = ("pairs", "difference", "difference_half", "p", "p_corrected", "verdict")
PAPER = ("paper", "paper_table", "rule", "note", "measured", "measured_half", "minus_paper", "outside")


def one_head(frame: pd.DataFrame, head: str = "", groups: str = "rank") -> pd.DataFrame:
    """A row a run: the wanted head where it has it, else the one that stands for it. Results that a correction changed
    since are left out.

    groups: ``rank``, or ``count``: then ``many``, ``medium`` and ``few`` are those by training images.
    """
    frame = frame[~frame["outdated"].astype(bool)] if "outdated" in frame else frame
    chosen = frame[frame["stands"].astype(bool)]
    if head:
        wanted = frame[frame["head"] == head]
        chosen = pd.concat([wanted, chosen[~chosen["fingerprint"].isin(wanted["fingerprint"])]]).sort_index()
    if groups == "count":
        chosen = chosen.assign(
            **{f"{rule}_{group}": chosen[f"{rule}_count_{group}"] for rule in ("last", "best") for group in GROUPS}
        )
    return chosen


def table(
    frame: pd.DataFrame, baseline: str = BASELINE, *, head: str = "", groups: str = "rank", published: bool = True
) -> pd.DataFrame:
    """A row a cell (data, recipe, line): what is measured, and how it stands to the baseline and to the paper.

    frame: of ``csa.runs()``. baseline: a method; its line without settings of its own is the one that the others are
    compared with. head, groups: as in ``python -m csa.report``. Accuracies in percent, at the last epoch unless named
    ``best``:

    - ``n``, ``seeds``; ``all``, ``all_sd``, ``all_half`` (half the 95 % t interval of the mean, from three seeds on),
      ``balanced``, ``many``, ``medium``, ``few``, ``macro_f1``, ``g_mean``, ``ece``, ``best``, ``best_sd``, over seeds;
    - ``difference`` to the baseline over ``pairs`` of equal seed, half its 95 % interval, the p-value of the paired t
      test (five pairs on), after Holm over the lines of the table, and the ``verdict`` in a word;
    - ``paper``, its table, the ``rule`` by which it was taken; ``measured`` under that rule or the nearest,
      ``minus_paper``; whether the paper's value is ``outside`` the 95 % prediction interval of a further such run.
    """
    shown = one_head(frame, head, groups)
    rows = [_cell(group) for _, group in shown.groupby(list(CELL), sort=False)]
    if not rows:
        return pd.DataFrame(columns=[*CELL, "n", *PAIRED, *PAPER])
    cells = pd.DataFrame(rows)
    seeds = dict(list(shown.groupby(list(CELL), sort=False)))
    compared = [_against(cells.loc[group.index], seeds, baseline) for _, group in cells.groupby(TABLE, sort=False)]
    cells = pd.concat(compared)
    if published:
        cells = cells.join(_beside(cells, seeds))
    return cells.reset_index(drop=True)


def _cell(runs: pd.DataFrame) -> dict[str, Any]:
    first = runs.iloc[0]
    found: dict[str, Any] = {name: first[name] for name in (*CELL, *OF_A_LINE)}
    found |= {"head": "; ".join(sorted(set(runs["head"]))), "n": len(runs), "seeds": sorted(map(int, runs["seed"]))}
    found |= {name: runs[f"last_{name}"].mean() for name in (*ACCURACIES, *OTHERS)}
    found |= {"best": runs["best_all"].mean(), "best_sd": runs["best_all"].std()}
    return found | {
        "all_sd": runs["last_all"].std(),
        "all_half": half_interval(list(runs["last_all"])),
        "minutes": runs["minutes"].mean(),
        "collapsed": int(runs["collapsed"].sum()),
        "hardware": "; ".join(sorted({f"{one.hardware} ({one.precision})" for one in runs.itertuples()})),
        "fingerprints": " ".join(runs["fingerprint"]),
    }


Seeds = dict[Any, pd.DataFrame]
"""Of each cell (data, recipe, line) its runs."""


def _of(seeds: Seeds, cell: pd.Series) -> pd.DataFrame:
    return seeds[tuple(cell[name] for name in CELL)]


def _against(cells: pd.DataFrame, seeds: Seeds, baseline: str) -> pd.DataFrame:
    """The lines of one table, the baseline first, then the best; with their differences to it."""
    plain = cells[cells["method"] == baseline]
    plain = plain[plain["line"].str.len() == plain["line"].str.len().min()]
    ours = plain.index[0] if len(plain) else None
    order = sorted(cells.index, key=lambda i: (i != ours, -cells.loc[i, "all"], cells.loc[i, "line"]))
    cells = cells.loc[order].assign(is_baseline=[i == ours for i in order])
    empty = {"pairs": 0, "difference": math.nan, "difference_half": math.nan, "p": math.nan}
    theirs = None if ours is None else _of(seeds, cells.loc[ours])
    found = [empty if theirs is None or i == ours else paired(_of(seeds, cells.loc[i]), theirs) for i in cells.index]
    compared = pd.DataFrame(found, index=cells.index)
    compared["p_corrected"] = holm(list(compared["p"]))
    compared["verdict"] = [
        ""
        if theirs is None or i == ours
        else verdict(int(one.pairs), one.difference, one.difference_half, one.p_corrected)
        for i, one in zip(cells.index, compared.itertuples(), strict=True)
    ]
    return cells.join(compared)


def paired(ours: pd.DataFrame, theirs: pd.DataFrame) -> dict[str, Any]:
    """Accuracy of all classes, runs of the same seed on the same data being a pair; ours minus theirs."""
    pairs = ours.merge(theirs, on=["seed", "split"], suffixes=("", "_theirs"))
    differences = list(pairs["last_all"] - pairs["last_all_theirs"])
    return {
        "pairs": len(pairs),
        "difference": float(np.mean(differences)) if differences else math.nan,
        "difference_half": half_interval(differences),
        "p": paired_p(differences),
    }


# --- the paper's values ---------------------------------------------------------------------


def beside_paper(frame: pd.DataFrame, *, head: str = "", groups: str = "rank") -> pd.DataFrame:
    """The published cells of Tables 1 to 5, in their order, each with what was measured for it.

    Added: n, ``measured`` under the cell's own rule or the nearest, ``measured_half`` (of the 95 % interval of the
    mean), ``last``, ``minus_paper``, ``outside``, ``collapsed``, ``fingerprints``; NaN where nothing was run.
    """
    shown = one_head(frame, head, groups)
    published = load_published()
    columns = [shown[name].astype(object).fillna("") for name in PLACE]
    places = dict(list(shown.groupby(columns))) if len(shown) else {}
    measured = [_measured(cell, places.get(tuple(cell[list(PLACE)].fillna("")))) for _, cell in published.iterrows()]
    return published.join(pd.DataFrame(measured, index=published.index))


def _measured(cell: pd.Series, runs: pd.DataFrame | None) -> dict[str, Any]:
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


def _beside(cells: pd.DataFrame, seeds: Seeds) -> pd.DataFrame:
    """Of each measured cell the published value of all classes: from the table that has most of its lines."""
    published = load_published()
    published = published[(published["metric"] == "all") & published["value"].notna()]
    found = cells[list(PLACE)].reset_index().merge(published, on=list(PLACE), how="inner")
    tables = found.join(cells[TABLE], on="index").groupby([*TABLE, "table"]).size()
    rows = {}
    for index, candidates in found.groupby("index"):
        place = tuple(cells.loc[index, TABLE])
        best = min(
            candidates.index, key=lambda i: (-tables[(*place, candidates.loc[i, "table"])], candidates.loc[i, "table"])
        )
        cell = candidates.loc[best]
        told = _measured(cell, _of(seeds, cells.loc[index]))
        rows[index] = {
            "paper": cell["value"],
            "paper_table": cell["table"],
            "rule": cell["rule"],
            "note": cell["note"],
            **{name: told.get(name, math.nan) for name in ("measured", "measured_half", "minus_paper", "outside")},
        }
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(PAPER))


# --- comparisons ----------------------------------------------------------------------------


def compare(frame: pd.DataFrame, first: str, second: str, *, head: str = "") -> pd.DataFrame:
    """Is one method better than another, wherever both have runs? A row a table and pair of their lines.

    frame: of ``csa.runs()``; first, second: methods. ``difference`` (first minus second) and what follows as in
    ``table``, Holm over these rows. ``only_first``, ``only_second``: test images that one alone has right, summed over
    seeds; ``p_images``: McNemar's exact test of each seed, put together as twice their median (five pairs on).

    Raises:
        UserError: no run is of such a method.
    """
    known = sorted(set(frame["method"]))
    if faults := unrecorded("compare", [first, second], known):
        raise UserError(*faults)
    shown = one_head(frame, head)
    rows = []
    for place, group in shown.groupby(TABLE, sort=False):
        lines = dict(list(group.groupby("line", sort=False)))
        for one, ours in lines.items():
            for other, theirs in lines.items():
                if (ours["method"].iloc[0], theirs["method"].iloc[0]) == (first, second) and one != other:
                    rows.append(
                        {
                            **dict(zip(TABLE, place, strict=True)),
                            "first": one,
                            "second": other,
                            "first_mean": ours["last_all"].mean(),
                            "second_mean": theirs["last_all"].mean(),
                            **paired(ours, theirs),
                            **_images(ours, theirs),
                        }
                    )
    columns = [*TABLE, "first", "second", "first_mean", "second_mean", *PAIRED[:4]]
    found = pd.DataFrame(rows, columns=[*columns, "only_first", "only_second", "p_images"])
    found["p_corrected"] = holm(list(found["p"]))
    found["verdict"] = [
        verdict(one.pairs, one.difference, one.difference_half, one.p_corrected) for one in found.itertuples()
    ]
    return found


def unrecorded(key: str, methods: Sequence[str], known: Sequence[str]) -> list[Fault]:
    """Of the methods that ``key`` names those that no run is of."""
    problem, allowed = "no run of such a method is recorded", ", ".join(known) or "none yet"
    return [Fault(key, one, problem, allowed, nearest(one, known)) for one in methods if one not in known]


def _images(ours: pd.DataFrame, theirs: pd.DataFrame) -> dict[str, Any]:
    """McNemar's test on the predictions of each pair."""
    pairs = ours.merge(theirs, on=["seed", "split"], suffixes=("", "_theirs"))
    if len(pairs) < FEWEST_FOR_A_TEST:
        return {"only_first": math.nan, "only_second": math.nan, "p_images": math.nan}
    found = []
    for pair in pairs.itertuples():
        a, b = (_right(run, head) for run, head in ((pair.run, pair.head), (pair.run_theirs, pair.head_theirs)))
        found.append(mcnemar(int(np.sum(a & ~b)), int(np.sum(b & ~a))))
    return {
        "only_first": sum(one.only_first for one in found),
        "only_second": sum(one.only_second for one in found),
        "p_images": twice_the_median([one.p for one in found]),
    }


def _right(run: Run, head: str) -> np.ndarray:
    right: np.ndarray = run.evidence.predictions(head) == run.evidence.labels
    return right
