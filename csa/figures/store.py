"""The runs that a figure shows: those of plain settings, side by side; or one with its model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

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


def model_runs(runs: Sequence[Run], dataset: str, methods: Sequence[str], seed: int) -> list[Run]:
    """Of each method the run on the data set with that seed whose checkpoint is there.

    Of several the one of most epochs, then the first by fingerprint. Raises UserError with every method
    that has none.
    """
    found, faults = [], []
    for method in methods:
        known = [
            run
            for run in runs
            if (run.dataset, run.method, run.seed) == (dataset, method, seed)
            and run.folder is not None
            and (run.folder / "checkpoint.pt").exists()
        ]
        if known:
            found.append(min(known, key=lambda run: (-int(run.result["epochs"]), run.fingerprint)))
            continue
        seeds = sorted({run.seed for run in runs if (run.dataset, run.method) == (dataset, method) and run.folder})
        problem = f"no run of it on {dataset} with seed {seed} has a checkpoint here"
        have = f"seed={', '.join(map(str, seeds))}" if seeds else f"python -m csa.run dataset={dataset} method={method}"
        faults.append(Fault("methods", method, problem, have))
    if faults:
        raise UserError(*faults)
    return found


def told(runs: Sequence[Run]) -> str:
    """Which runs a picture is of."""
    return "; ".join(f"{printed(run.method)} {run.fingerprint} (seed {run.seed})" for run in runs)
