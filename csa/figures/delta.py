"""The points of the delta curve, from Table 5's cells or from a sweep of delta on another data set."""

from __future__ import annotations

from typing import TYPE_CHECKING

from csa.figures.delta_curve import Point
from csa.reporting.cells import View
from csa.reporting.grouping import cell_name
from csa.reporting.published import Place, load_published, paper_folder
from csa.reporting.tables import Chooser

if TYPE_CHECKING:
    from collections.abc import Sequence

    from csa.reporting.fitting import Fitting
    from csa.reporting.runs import Run

CAPTION = "Test accuracy of CSA over its threshold; points are seeds, lines their means."
DATASET = "cifar100_lt"  # Table 5's
METHOD = "csa"
FEWEST = 2  # thresholds that make a curve


def points(runs: Sequence[Run], judge: Fitting, dataset: str, *, reduced: bool) -> tuple[list[Point], list[Run], str]:
    """By threshold; the runs of them, and the name of their cell. dataset: empty for Table 5's."""
    chooser = Chooser(runs, judge, View(), reduced)
    published: dict[Place, float | None] = {}
    if dataset in ("", DATASET):
        published = {cell.place: cell.value for cell in load_published(paper_folder())["5"]}
    found, shown = [], []
    for place in list(published) or _places(dataset, runs):
        kinds = chooser.kinds(place)
        there = kinds.get("") or next((kinds[kind] for kind in sorted(kinds)), [])
        shown += there
        last, best = ([run.accuracy(rule, "all") or 0.0 for run in there] for rule in ("last", "best_on_test"))
        delta = float(dict(word.split("=") for word in place.words)["delta"])
        found.append(Point(delta, published.get(place), last, best))
    return sorted(found, key=lambda point: point.delta), shown, cell_name(shown[0]) if shown else ""


def _places(dataset: str, runs: Sequence[Run]) -> list[Place]:
    """Every delta that was run on the data set, at its most frequent ratio and backbone."""
    from csa.figures.store import place_of

    found: dict[tuple[float | None, str], set[float]] = {}
    for run in runs:
        if run.dataset == dataset and run.method == METHOD and "delta" in run.identity["method"]:
            place = place_of(run)
            found.setdefault((place.imbalance_ratio, place.backbone), set()).add(run.identity["method"]["delta"])
    if not found:
        return []
    ratio, backbone = max(found, key=lambda key: (len(found[key]), str(key)))
    return [Place(METHOD, dataset, ratio, backbone, (f"delta={delta:g}",)) for delta in sorted(found[ratio, backbone])]
