"""A section a data set and recipe, with a line a method; and one of a comparison."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import pandas as pd

from csa.reporting.layout import (
    COLLAPSED,
    DASH,
    MINUS,
    OUTSIDE,
    Cell,
    Grid,
    Section,
    as_printed,
    is_none,
    listed,
    number,
    p_text,
    ranges,
    signed,
    slug,
    with_half,
)
from csa.reporting.notes import LEGEND, marks, notes
from csa.reporting.paper import known_orders
from csa.reporting.tables import BASELINE, compare, table

if TYPE_CHECKING:
    from collections.abc import Sequence


ALONE = "One run under each of these recipes: nothing here to compare it with."


def sections(
    frame: pd.DataFrame, baseline: str = BASELINE, *, head: str = "", groups: str = "rank", joined: bool = True
) -> list[Section]:
    """A section a data set and recipe, of a data set that of most runs first: a line a method, the baseline first.

    The first recipe's section is named after the data set alone. joined: whether further recipes that have one run
    each, as the trials of a search, share one section.
    """
    cells = table(frame, baseline, head=head, groups=groups)
    orders, found = known_orders(), dict[str, Section]()
    for data, of_data in cells.groupby("data", sort=False):
        most = of_data.groupby("recipe", sort=False)["n"].sum().sort_values(ascending=False, kind="stable")
        single = [recipe for recipe in most.index[1:] if most[recipe] == 1] if joined else []
        single = single if len(single) > 1 else []
        own = [[recipe] for recipe in most.index if recipe not in single]
        for place, recipes in enumerate([*own, single] if single else own):
            lines = of_data[of_data["recipe"].isin(recipes)]
            rows = frame[(frame["data"] == data) & frame["recipe"].isin(recipes)]
            title = str(data) if len(most) == 1 else f"{data}; {recipes[0]}"
            if recipes is single:
                title = f"{data}; other recipes, one run each"
                lines, rows = (one.assign(line=one["line"] + ", " + one["recipe"]) for one in (lines, rows))
            name = slug(title if place else str(data))
            while name in found:
                name += "_2"
            found[name] = Section(
                name,
                title,
                ALONE if recipes is single else sentence(lines),
                overview(name, title, lines),
                marks(lines),
                notes(lines, rows, orders, groups),
                lines,
                (_detail(name, lines, rows),),
            )
    return list(found.values())


def overview(name: str, title: str, lines: pd.DataFrame) -> Grid:
    compared, in_paper = lines["is_baseline"].any() and len(lines) > 1, lines["paper"].notna().any()
    base = lines["line"].iloc[0]
    headings = ["method", "n", "accuracy"]
    headings += [f"vs {base}", "verdict"] if compared else []
    headings += ["many", "med.", "few", "bal."]
    headings += ["paper", f"{MINUS} paper"] if in_paper else []
    rows = []
    for line in lines.to_dict("records"):
        mark = COLLAPSED if line["collapsed"] else ""
        row = [
            Cell(line["line"], line["line"], "baseline" if line["is_baseline"] else ""),
            Cell(str(line["n"]), line["n"]),
            Cell(with_half(number(line["all"]), line["all_half"]) + mark, line["all"], "main"),
        ]
        if compared:
            difference = with_half(signed(line["difference"]), line["difference_half"])
            verdict = "baseline" if line["is_baseline"] else line["verdict"]
            row += [
                Cell("" if line["is_baseline"] else difference, line["difference"]),
                Cell(verdict, verdict, slug(verdict)),
            ]
        row += [Cell(number(line[metric]), line[metric]) for metric in ("many", "medium", "few", "balanced")]
        if in_paper:
            outside = OUTSIDE if line["outside"] is True else ""
            row += [
                Cell(as_printed(line["paper"]), line["paper"]),
                Cell(signed(line["minus_paper"]) + outside, line["minus_paper"], "marked" if outside else ""),
            ]
        rows.append(tuple(row))
    return Grid(name, title, tuple(headings), tuple(rows))


def sentence(lines: pd.DataFrame) -> str:
    """Which methods are better than the baseline, by how much, and of which that is not sure."""
    base = lines[lines["is_baseline"]]
    others = lines[~lines["is_baseline"]]
    if base.empty or others.empty:
        best = lines.iloc[0]
        return f"{best['line']}: {number(best['all'])} % right; nothing here to compare it with."
    name, parts = base["line"].iloc[0], []
    for word in ("better", "worse"):
        of_them = others[others["verdict"] == word].sort_values("difference", ascending=word == "worse", kind="stable")
        named = [f"{one.line} ({signed(one.difference)})" for one in of_them.itertuples()]
        parts += [f"{word.capitalize()} than {name}: {', '.join(named)}."] if named else []
    unsure = others[others["verdict"] == "not shown"]
    parts += [f"No difference to {name} is shown for {listed(list(unsure['line']))}."] if len(unsure) else []
    few = others[others["verdict"].isin(("one seed", "two seeds"))]
    if len(few):
        best = few.sort_values("difference", ascending=False, kind="stable").iloc[0]
        who = f"the highest of {len(few)} methods, {best['line']}" if len(few) > 1 else str(best["line"])
        most = "one seed" if set(few["verdict"]) == {"one seed"} else "two seeds or one"
        parts.append(f"Of {most} only: {who}, {signed(best['difference'])} against {name}; that shows nothing yet.")
    unpaired = others[others["verdict"] == "no pair"]
    parts += [f"No seed in common with {name}: {listed(list(unpaired['line']))}."] if len(unpaired) else []
    return " ".join(parts)


DETAIL = ("method, head", "seeds", "last", "best", "bal.", "macro-F1", "G-mean", "ECE", "p", "p, Holm", "minutes")


def _detail(name: str, lines: pd.DataFrame, rows: pd.DataFrame) -> Grid:
    """A row a line and head; means ± sample standard deviations."""
    found = []
    for line in lines.to_dict("records"):
        own = rows[(rows["line"] == line["line"]) & rows["fingerprint"].isin(line["fingerprints"].split())]
        for head, runs in own.groupby("head", sort=False):
            stands = head in line["head"].split("; ")
            means = {column: runs[column].mean() for column in runs.columns if column.startswith(("last_", "best_"))}
            collapsed = int(runs["collapsed"].sum())
            label = f"{line['line']}, {head}" if own["head"].nunique() > 1 else line["line"]
            last, best = (
                with_half(number(means[f"{rule}_all"], 2), runs[f"{rule}_all"].std(), 2) for rule in ("last", "best")
            )
            found.append(
                (
                    Cell(label, label, "main" if stands else ""),
                    Cell(ranges(list(runs["seed"])) + (f"; {collapsed} collapsed" if collapsed else ""), len(runs)),
                    Cell(last, means["last_all"]),
                    Cell(best, means["best_all"]),
                    *(
                        Cell(number(means[f"last_{one}"]), means[f"last_{one}"])
                        for one in ("balanced", "macro_f1", "g_mean", "ece")
                    ),
                    *(
                        Cell(p_text(line[one]) if stands else "", line[one] if stands else None)
                        for one in ("p", "p_corrected")
                    ),
                    Cell(f"{runs['minutes'].mean():.1f}", float(runs["minutes"].mean())),
                )
            )
    return Grid(f"{name}_detail", "Every head, mean ± standard deviation over seeds", DETAIL, tuple(found))


ONLY_ONE = (
    "Only one right: test images that only the first, or only the second, has right, summed over seeds; p images: "
    "McNemar's exact test of each seed, put together as twice their median."
)


COMPARISON = (
    *("data", "first", "second", "pairs", "means", "difference", "verdict", "p", "p, Holm"),
    *("only one right", "p images"),
)


def comparison_section(frame: pd.DataFrame, methods: Sequence[str], *, head: str = "") -> Section:
    """Of ``csa.compare``, every two of the methods."""
    names = list(dict.fromkeys(methods))
    found = pd.concat([compare(frame, *pair, head=head) for pair in combinations(names, 2)], ignore_index=True)
    title = f"Comparison of {' and '.join(names)}"
    several = found.groupby("data")["recipe"].nunique() if len(found) else {}
    rows = []
    for one in found.to_dict("records"):
        where = one["data"] if several[one["data"]] == 1 else f"{one['data']}; {one['recipe']}"
        alone = DASH if is_none(one["only_first"]) else f"{one['only_first']:.0f} / {one['only_second']:.0f}"
        rows.append(
            (
                Cell(where, where),
                Cell(one["first"], one["first"]),
                Cell(one["second"], one["second"]),
                Cell(str(one["pairs"]), one["pairs"]),
                Cell(f"{number(one['first_mean'])} / {number(one['second_mean'])}", one["first_mean"]),
                Cell(with_half(signed(one["difference"]), one["difference_half"]), one["difference"], "main"),
                Cell(one["verdict"], one["verdict"], slug(one["verdict"])),
                Cell(p_text(one["p"]), one["p"]),
                Cell(p_text(one["p_corrected"]), one["p_corrected"]),
                Cell(alone, one["only_first"]),
                Cell(p_text(one["p_images"]), one["p_images"]),
            )
        )
    grid = Grid("comparison", title, COMPARISON, tuple(rows))
    verdict = "" if rows else "No two of them have runs on the same data under the same recipe."
    return Section("comparison", title, verdict, grid, (LEGEND[1], LEGEND[2], ONLY_ONE), (), found)
