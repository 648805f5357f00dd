"""The runs that a figure shows: those of plain settings, side by side; or one with its model."""

from __future__ import annotations

from dataclasses import dataclass
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
    """What a run of its name, ratio and backbone would be recorded with, but for the label flips of its data."""
    dataset = run.config["dataset"]
    ratio = float(dataset["imbalance_ratio"]) if dataset.get("profile") == "exp" else None
    words = (f"dataset.label_flip={dataset['label_flip']}",) if dataset.get("label_flip") else ()
    return Place(run.method, run.dataset, ratio, str(run.identity["backbone"]["name"]), words)


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


def model_runs(runs: Sequence[Run], judge: Fitting, dataset: str, methods: Sequence[str], seed: int) -> list[Run]:
    """Of each method one run on the data set with that seed whose checkpoint is there, all on the same images.

    Which images: those that most of the methods were trained on, then those with the plainest runs, then of the
    highest imbalance ratio. Which run: plain settings before shortened runs, those before variants (CSA without its
    bank, another delta), then the one of most epochs. Raises UserError with every method that has none.
    """
    here = [
        run
        for run in runs
        if (run.dataset, run.seed) == (dataset, seed)
        and run.method in methods
        and run.folder is not None
        and (run.folder / "checkpoint.pt").exists()
    ]
    by_images: dict[str, dict[str, Run]] = {}
    for run in sorted(here, key=lambda run: (_distance(run, judge), -int(run.result["epochs"]), run.fingerprint)):
        by_images.setdefault(run.split, {}).setdefault(run.method, run)
    chosen = min(by_images.values(), key=lambda one: _preference(one, judge), default={})
    if len(chosen) < len(set(methods)):
        raise UserError(*_missing([method for method in methods if method not in chosen], chosen, runs, dataset, seed))
    return [chosen[method] for method in methods]


def _distance(run: Run, judge: Fitting) -> int:
    """From the plain settings of its method: 0 these, 1 these but shortened or of other training images, 2 others."""
    fit = judge.fit(place_of(run), run)
    return 2 if fit is None else int(bool(fit.reduced))


def _preference(chosen: Mapping[str, Run], judge: Fitting) -> tuple[Any, ...]:
    """Of runs on the same images; the smallest is preferred."""
    run = next(iter(chosen.values()))
    dataset = run.config["dataset"]
    farthest = max(_distance(one, judge) for one in chosen.values())
    return -len(chosen), farthest, -dataset["imbalance_ratio"], dataset.get("label_flip") or 0, run.split


def _missing(
    methods: Sequence[str], chosen: Mapping[str, Run], runs: Sequence[Run], dataset: str, seed: int
) -> list[Fault]:
    faults = []
    for method in methods:
        seeds = sorted({run.seed for run in runs if (run.dataset, run.method) == (dataset, method) and run.folder})
        where, command = f"on {dataset} with seed {seed}", f"python -m csa.run dataset={dataset} method={method}"
        have = f"seed={', '.join(map(str, seeds))}" if seeds else command
        if chosen and seed in seeds:
            where += f", on the images of {', '.join(chosen)},"
            have = f"{command} seed={seed}, with the words for the data of those"
        faults.append(Fault("methods", method, f"no run of it {where} has a checkpoint here", have))
    return faults


def told(runs: Sequence[Run]) -> str:
    """Which runs a picture is of."""
    return "; ".join(f"{printed(run.method)} {run.fingerprint} (seed {run.seed})" for run in runs)
