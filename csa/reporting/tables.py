"""From the frame of runs to the numbers of tables: means over seeds, intervals, paired differences, the paper's values.

filter -> group by cell -> mean, intervals, paired differences -> merge with the paper
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from csa.config.faults import Fault, UserError, nearest
from csa.reporting.frame import ACCURACIES, CELL, OTHERS, TABLE, one_head
from csa.reporting.paper import PAPER, beside_cells
from csa.reporting.statistics import (
    FEWEST_FOR_A_TEST,
    half_interval,
    holm,
    mcnemar,
    paired_p,
    twice_the_median,
    verdict,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from csa.tracking.run import Run

BASELINE = "ce"
OF_A_LINE = ("method", "settings", "dataset", "imbalance_ratio", "backbone", "protocol", "shortened", "split")
PAIRED = ("pairs", "difference", "difference_half", "p", "p_corrected", "verdict")


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
    runs = [group for _, group in shown.groupby(list(CELL), sort=False)]
    if not runs:
        return pd.DataFrame(columns=[*CELL, "n", *PAIRED, *PAPER])
    cells = pd.DataFrame(map(_cell, runs))
    compared = [_against(cells.loc[group.index], runs, baseline) for _, group in cells.groupby(TABLE, sort=False)]
    cells = pd.concat(compared)
    if published:
        cells = cells.join(beside_cells(cells, runs))
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


def _against(cells: pd.DataFrame, runs: Sequence[pd.DataFrame], baseline: str) -> pd.DataFrame:
    """The lines of one table, the baseline first, then the best; with their differences to it.

    runs: of each cell, at the place that its index says.
    """
    plain = cells[cells["method"] == baseline]
    plain = plain[plain["line"].str.len() == plain["line"].str.len().min()]
    ours = plain.index[0] if len(plain) else None
    order = sorted(cells.index, key=lambda i: (i != ours, -cells.loc[i, "all"], cells.loc[i, "line"]))
    cells = cells.loc[order].assign(is_baseline=[i == ours for i in order])
    empty = {"pairs": 0, "difference": math.nan, "difference_half": math.nan, "p": math.nan}
    theirs = None if ours is None else runs[ours]
    found = [empty if theirs is None or i == ours else paired(runs[i], theirs) for i in cells.index]
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
    first, second = [], []
    for pair in pairs.itertuples():
        a, b = (_right(run, head) for run, head in ((pair.run, pair.head), (pair.run_theirs, pair.head_theirs)))
        first.append(int(np.sum(a & ~b)))
        second.append(int(np.sum(b & ~a)))
    p_images = twice_the_median(list(map(mcnemar, first, second)))
    return {"only_first": sum(first), "only_second": sum(second), "p_images": p_images}


def _right(run: Run, head: str) -> np.ndarray:
    right: np.ndarray = run.predictions(head) == run.labels
    return right
