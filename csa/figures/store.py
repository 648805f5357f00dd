"""The runs that a figure shows: those of plain settings, side by side; or one with its model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from csa.config.faults import Fault, UserError
from csa.reporting.grouping import same_cells
from csa.reporting.names import printed
from csa.reporting.published import Place

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from csa.reporting.fitting import Fitting
    from csa.reporting.runs import Run


@dataclass(frozen=True)
class Panel:
    """Runs of one cell by method, each list by seed."""

    name: str
    methods: Mapping[str, Sequence[Run]]

    @property
    def runs(self) -> list[Run]:
        return [run for runs in self.methods.values() for run in runs]


def place_of(run: Run) -> Place:
    """The place of plain settings for a run's data set, ratio, method and backbone."""
    dataset = run.config["dataset"]
    ratio = float(dataset["imbalance_ratio"]) if dataset.get("profile") == "exp" else None
    return Place(run.method, run.dataset, ratio, str(run.identity["backbone"]["name"]))


def panels(
    runs: Sequence[Run],
    judge: Fitting,
    *,
    dataset: str = "",
    methods: Sequence[str] = (),
    reduced: bool = False,
) -> list[Panel]:
    """A panel a cell, methods with their plain settings; shortened runs only where ``reduced``."""
    chosen = []
    for run in runs:
        if (dataset and run.dataset != dataset) or (methods and run.method not in methods):
            continue
        fit = judge.fit(place_of(run), run)
        if fit is not None and (reduced or not fit.reduced):
            chosen.append(run)
    found = []
    for name, variants in same_cells(chosen):
        order = methods or list(variants)
        shown = {printed(method): variants[method] for method in order if method in variants}
        found.append(Panel(name, shown))
    return found


def several(panels: Sequence[Panel]) -> list[str]:
    """All methods, in the order of the panel that has most: the same look in every panel."""
    fullest = sorted(panels, key=lambda panel: -len(panel.methods))
    return list(dict.fromkeys(method for panel in fullest for method in panel.methods))


def model_runs(
    runs: Sequence[Run],
    judge: Fitting,
    dataset: str,
    methods: Sequence[str],
    seed: int,
    imbalance_ratio: float | None = None,
) -> list[Run]:
    """Of each method one run on the data set with that seed whose checkpoint is there: same images, same backbone.

    Which images and backbone: those that most of the methods have, then those with the plainest runs, then the
    data set's own backbone, then the highest imbalance ratio, unless one is asked for. Which run: plain settings
    before shortened runs, those before variants (CSA without its bank, another delta), then the one of most epochs.

    Raises UserError with every method that has none.
    """
    here = [
        run
        for run in runs
        if (run.dataset, run.seed) == (dataset, seed)
        and run.method in methods
        and _has_checkpoint(run)
        and imbalance_ratio in (None, run.config["dataset"]["imbalance_ratio"])
    ]
    cells: dict[tuple[str, str], dict[str, Run]] = {}
    for run in sorted(here, key=lambda run: (_distance(run, judge), -int(run.result["epochs"]), run.fingerprint)):
        cells.setdefault((run.split, place_of(run).backbone), {}).setdefault(run.method, run)
    chosen = min(cells.values(), key=lambda cell: _preference(cell, judge), default={})
    missing = [method for method in methods if method not in chosen]
    if missing:
        raise UserError(*(_no_run(method, list(chosen.values()), runs, dataset, seed) for method in missing))
    return [chosen[method] for method in methods]


def _has_checkpoint(run: Run) -> bool:
    return run.folder is not None and (run.folder / "checkpoint.pt").exists()


def _distance(run: Run, judge: Fitting) -> int:
    """From the plain settings of its method: 0 these, 1 these but shortened or of other training images, 2 others."""
    fit = judge.fit(place_of(run), run)
    return 2 if fit is None else int(bool(fit.reduced))


def _preference(cell: Mapping[str, Run], judge: Fitting) -> tuple[Any, ...]:
    """Of runs with the same images and backbone; the smallest is preferred."""
    run = next(iter(cell.values()))
    dataset, place = run.config["dataset"], place_of(run)
    farthest = max(_distance(one, judge) for one in cell.values())
    own_backbone = any(judge.fit(replace(place_of(one), backbone=""), one) for one in cell.values())
    return -len(cell), farthest, not own_backbone, -dataset["imbalance_ratio"], run.split, place.backbone


def _no_run(method: str, chosen: Sequence[Run], runs: Sequence[Run], dataset: str, seed: int) -> Fault:
    """What is missing, and the seeds that there are or the command that trains it."""
    seeds = sorted(
        {run.seed for run in runs if (run.dataset, run.method) == (dataset, method) and _has_checkpoint(run)}
    )
    problem = f"no run of it on {dataset} with seed {seed} has a checkpoint here"
    if seeds and seed not in seeds:
        return Fault("methods", method, problem, f"seed={', '.join(map(str, seeds))}")
    words = f"dataset={dataset} method={method} seed={seed}"
    if seed in seeds and chosen:
        others = ", ".join(run.method for run in chosen)
        problem = f"no run of it with the images and the backbone of {others} (seed {seed}) has a checkpoint here"
        place = place_of(chosen[0])
        ratio = "" if place.imbalance_ratio is None else f"dataset.imbalance_ratio={place.imbalance_ratio:g}"
        words = " ".join(filter(None, (words, ratio, f"backbone={place.backbone}")))
    return Fault("methods", method, problem, f"python -m csa.run {words}")


def told(runs: Sequence[Run]) -> str:
    """Which runs a picture is of."""
    return "; ".join(f"{printed(run.method)} {run.fingerprint} (seed {run.seed})" for run in runs)
