"""What a reader of a section must know, and what else there is to know of its protocol, data and machines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from csa.console import PLUS_MINUS
from csa.metrics import GROUPS
from csa.reporting.layout import COLLAPSED, as_printed, listed, printed, recipe
from csa.reporting.paper import LEGEND_OF_PAPER, RULES, TABLES, load_published, places

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from csa.reporting.layout import Section
    from csa.tracking.run import Run

SHOWN_OF_A_HASH = 12
LEGEND = (
    (
        "Accuracy: test images that are right, in percent, at the last epoch, mean over n seeds "
        f"{PLUS_MINUS} half the 95 % t interval of that mean (from three seeds on)."
    ),
    f"The difference to the baseline is over pairs of runs of the same seed, {PLUS_MINUS} half its 95 % interval.",
    (
        "Verdict: from five pairs on by the paired t test at the 5 % level after Holm's correction over the table, "
        "with three and four by whether the interval holds 0; fewer show nothing."
    ),
    "Many, med., few, bal.: mean accuracy of the classes of a shot group and of all classes.",
)


def legend(found: Sequence[Section]) -> list[str]:
    """What holds for all tables."""
    in_paper = any("paper" in section.data and section.data["paper"].notna().any() for section in found)
    return [*LEGEND, *([LEGEND_OF_PAPER] if in_paper else [])]


def marks(lines: pd.DataFrame) -> tuple[str, ...]:
    """What a reader of the grid must know."""
    return (*_marks(lines), *_paper(lines), *_without_runs(lines))


def notes(lines: pd.DataFrame, rows: pd.DataFrame, orders: dict[str, str], groups: str) -> tuple[str, ...]:
    runs = _runs(lines, rows)
    return (
        *_recipe(runs),
        *_groups(runs, groups),
        *_heads(lines, rows),
        *_machines(runs),
        *_subsets(runs, orders),
        *_reused(runs),
    )


def _runs(lines: pd.DataFrame, rows: pd.DataFrame) -> list[Run]:
    wanted = {name for names in lines["fingerprints"] for name in names.split()}
    found = rows[rows["fingerprint"].isin(wanted)].drop_duplicates("fingerprint")
    return list(found.sort_values("fingerprint")["run"])


def _marks(lines: pd.DataFrame) -> list[str]:
    collapsed = ", ".join(f"{one.line} {one.collapsed} of {one.n}" for one in lines.itertuples() if one.collapsed)
    found = []
    if collapsed:
        found.append(f"{COLLAPSED} Collapsed runs, whose network predicts a single class, are among {collapsed}.")
    if lines["shortened"].any():
        found.append("Shortened: fewer epochs than the protocol has.")
    return found


def _paper(lines: pd.DataFrame) -> list[str]:
    known = lines[lines["paper"].notna()]
    if known.empty:
        return []
    tables = known.groupby("paper_table")["line"].agg(list)
    most = max(tables.index, key=lambda name: len(tables[name]))
    others = [f"{', '.join(tables[name])}: {TABLES[name].short}" for name in tables.index if name != most]
    rules = known.groupby("rule")["line"].agg(list)
    main = max(rules.index, key=lambda rule: (len(rules[rule]), rule))
    sentence = f"Paper: {TABLES[most].short}{' (' + '; '.join(others) + ')' if others else ''}, taken at {RULES[main]}"
    for one in known[(known["rule"] != main) | (known["note"] != "")].itertuples():
        nearest = (
            "" if one.rule in ("last", "best_on_test") else "; compared with our epoch that was best on the test set"
        )
        sentence += f"; {one.line} {one.note or 'at ' + RULES[one.rule]}{nearest}"
    return [f"{sentence}."]


def _without_runs(lines: pd.DataFrame) -> list[str]:
    """Of a published table the methods under this recipe that were not run, in one line."""
    tables = set(lines["paper_table"].dropna())
    if not tables:
        return []
    published = load_published()
    published = published[published["table"].isin(tables) & (published["metric"] == "all") & published["value"].notna()]
    there, theirs = places(lines), places(published)
    first, run = there.iloc[0], set(there.itertuples(index=False, name=None))
    here = theirs["settings"].map(_of_recipe) == _of_recipe(first["settings"])
    for name in ("dataset", "imbalance_ratio", "backbone"):
        here &= theirs[name] == first[name]
    beside = zip(published[here].itertuples(), theirs[here].itertuples(index=False, name=None), strict=True)
    values = [f"{one.row} {as_printed(one.value)}" for one, place in beside if place not in run]
    return [f"Published, without a run here: {', '.join(dict.fromkeys(values))}."] if values else []


def _of_recipe(settings: str) -> str:
    return " ".join(word for word in settings.split() if word.startswith("protocol"))


def _recipe(runs: Sequence[Run]) -> list[str]:
    """Of a section of one recipe."""
    if any(run.identity["protocol"] != runs[0].identity["protocol"] for run in runs):
        return []
    return [f"{recipe(runs[0].config['protocol'], printed(str(runs[0].identity['backbone']['name'])))}."]


def _groups(runs: Sequence[Run], groups: str) -> list[str]:
    split = runs[0].result["split"]
    rule = "by_count" if groups == "count" else "by_rank"
    sizes = "/".join(str(len(split[rule][name])) for name in GROUPS)
    how = "by training images (many > 100, few < 20)" if groups == "count" else "by class rank"
    images = f"{sum(split['counts']):,} training images of {len(split['counts'])} classes"
    return [f"{images}; many/medium/few {how}: {sizes} classes."]


def _heads(lines: pd.DataFrame, rows: pd.DataFrame) -> list[str]:
    """Of methods with several heads which one is shown."""
    several = rows.groupby("line")["head"].nunique()
    heads = [f"{one.line}: {one.head}" for one in lines.itertuples() if several[one.line] > 1]
    return [f"Head shown of several: {', '.join(heads)}."] if heads else []


def _machines(runs: Sequence[Run]) -> list[str]:
    machines = sorted({f"{run.result['hardware']} ({run.result['precision']})" for run in runs})
    return [f"Hardware: {'; '.join(machines)}."]


def _reused(runs: Sequence[Run]) -> list[str]:
    methods = sorted({printed(run.method) for run in runs if run.result.get("reused_epochs")})
    if not methods:
        return []
    return [f"Minutes of {listed(methods)} are without a first stage that was taken from a finished run."]


def _subsets(runs: Sequence[Run], orders: dict[str, str]) -> list[str]:
    """Where the images of a public data set differ from those that other code draws."""
    split = runs[0].split
    if orders.get(split) != "other":
        return []
    subset = f"The training subset ({split[:SHOWN_OF_A_HASH]})"
    from_others = "is drawn with the usual seed from files in another order than torchvision's"
    return [f"{subset} {from_others}, so it does not hold the same images."]
