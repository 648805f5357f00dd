"""``figure=...``: which figures there are, from which runs each is drawn, and where its files go."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from csa.cli import say
from csa.config.faults import Fault, UserError
from csa.figures import delta
from csa.reporting.names import printed
from csa.reporting.page import Drawn
from csa.reporting.runs import unrecorded

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from matplotlib.figure import Figure

    from csa.config.schema import Config
    from csa.figures.counts import Counts
    from csa.figures.store import Panel
    from csa.reporting.fitting import Fitting
    from csa.reporting.runs import Run

# From records alone: on the report's page. Those of networks and images are drawn when asked for.
FROM_RECORDS = ("4", "delta", "per_class", "curves", "counts")
NAMES = ("2", "3", "4", "10", "11", "delta", "per_class", "curves", "counts", "reliability", "contexts")
FIGURE_4_DATASETS, FIGURE_4_METHODS = ("mnist_lt", "cmnist_lt"), ("ce", "crt", "cbrs")
MODELS: dict[str, tuple[str, tuple[str, ...]]] = {
    "2": ("mnist_lt", ("ce", "cbrs")),
    "3": ("cifar100_lt", ("ce", "cbrs")),
    "10": ("cifar100_lt", ("ce", "cbrs", "csa")),
    "11": ("cifar100_lt", ("ce", "cbrs", "csa")),
    "contexts": ("cifar100_lt", ("csa",)),
}
OF_POINTS = ("2", "10")


@dataclass(frozen=True)
class Wish:
    """What the command says of the figure. dataset, methods: empty where it does not."""

    name: str
    dataset: str = ""
    methods: tuple[str, ...] = ()
    reduced: bool = False
    imbalance_ratio: float | None = None


def wish(own: Mapping[str, str], named: Collection[str], config: Config) -> Wish:
    methods = tuple(dict.fromkeys(filter(None, own["methods"].split(","))))
    dataset = config.dataset.name if "dataset" in named else ""
    ratio = config.dataset.imbalance_ratio if "dataset.imbalance_ratio" in named else None
    return Wish(own["figure"], dataset, methods, own["include"] == "reduced", ratio)


def draw(wanted: Wish, config: Config, runs: Sequence[Run], to: Path, records: Path | None = None) -> Drawn:
    """Draw one figure and write its PNG and SVG. Raises UserError where there is nothing to draw it from.

    records: the folder of exported records, where it is to be drawn from these alone.
    """
    drawn = _draw(wanted, config, runs, records)
    for ending, content in drawn.files.items():
        path = to / f"{drawn.name}.{ending}"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        except OSError as error:
            raise UserError(Fault("to", to, f"cannot be written ({error.strerror})")) from error
        say(str(path))
    say(drawn.caption)
    return drawn


def _draw(wanted: Wish, config: Config, runs: Sequence[Run], records: Path | None) -> Drawn:
    from csa.reporting.fitting import fitting

    if wanted.name in MODELS:
        return _from_models(wanted, config, runs) if records is None else _from_points(wanted, config, runs, records)
    if wanted.name == "counts" and wanted.dataset:
        return _counts_of_a_data_set(config)
    if faults := unrecorded("methods", wanted.methods, runs):
        raise UserError(*faults)
    with fitting() as judge:
        drawn = _from_records(wanted, runs, judge)
    if drawn is None:
        what = f" on {wanted.dataset}" if wanted.dataset else ""
        problem = f"no recorded run{what} can be shown in it"
        _, needed = NEEDED.get(wanted.name, (None, ""))
        allowed = "include=reduced shows shortened runs; see csa.records"
        raise UserError(Fault("figure", wanted.name, problem, f"{needed}; {allowed}" if needed else allowed))
    return drawn


def drawn_from_records(runs: Sequence[Run], *, reduced: bool = False) -> list[Drawn]:
    """Every figure of a whole report that has runs to show."""
    from csa.reporting.fitting import fitting

    others = sorted({run.dataset for run in runs} - {delta.DATASET})
    wishes = [Wish(name, reduced=reduced) for name in FROM_RECORDS]
    wishes += [Wish("delta", dataset, reduced=reduced) for dataset in others]
    with fitting() as judge:
        found = [_from_records(wanted, runs, judge) for wanted in wishes]
    return [drawn for drawn in found if drawn]


# --- from records ---------------------------------------------------------------------------


def _from_records(wanted: Wish, runs: Sequence[Run], judge: Fitting) -> Drawn | None:
    from csa.figures.store import panels

    if wanted.name == "delta":
        return _delta(wanted, runs, judge)
    methods = wanted.methods or (FIGURE_4_METHODS if wanted.name == "4" else ())
    chosen = panels(runs, judge, dataset=wanted.dataset, methods=methods, reduced=wanted.reduced)
    if wanted.name == "4" and not wanted.dataset:
        chosen = [panel for name in FIGURE_4_DATASETS for panel in chosen if panel.runs[0].dataset == name]
    if wanted.name in NEEDED:
        chosen = _those(NEEDED[wanted.name][0], chosen)
    if not chosen:
        return None
    caption = CAPTIONS[wanted.name]
    figure = _panels(wanted.name, chosen)
    fingerprints = tuple(run.fingerprint for panel in chosen for run in panel.runs)
    return finish(_file_name(wanted), f"{caption} {_seeds(chosen)}", figure, fingerprints)


CAPTIONS = {
    "4": "Accuracy of each class; bars are means over seeds, whiskers sample standard deviations.",
    "per_class": "Accuracy of each class over its training images, mean over seeds, last epoch. Of many classes each "
    "is a faint point and the line a running mean.",
    "curves": "Test accuracy after every epoch: mean over seeds, and the range of the seeds.",
    "counts": "Training images of each class by shot group (class rank).",
    "reliability": "Share of right test images over confidence, 15 bins, all seeds together.",
}


def _panels(name: str, chosen: Sequence[Panel]) -> Figure:
    from csa.figures import class_accuracy, counts, curves, per_class, reliability
    from csa.figures.style import style

    with style():
        if name == "counts":
            return counts.draw(_count_sets(chosen))
        drawers = {
            "4": class_accuracy.draw,
            "per_class": per_class.draw,
            "curves": curves.draw,
            "reliability": reliability.draw,
        }
        return drawers[name](chosen)


def _delta(wanted: Wish, runs: Sequence[Run], judge: Fitting) -> Drawn | None:
    from csa.figures import delta_curve
    from csa.figures.style import style

    points, shown, name = delta.points(runs, judge, wanted.dataset, reduced=wanted.reduced)
    if len([point for point in points if point.last]) < delta.FEWEST:
        return None
    with style():
        figure = delta_curve.draw(points, name)
    return finish(_file_name(wanted), delta.CAPTION, figure, tuple(run.fingerprint for run in shown))


def finish(name: str, caption: str, figure: Figure, fingerprints: tuple[str, ...]) -> Drawn:
    from csa.figures.style import files, style

    with style():
        return Drawn(name, caption, caption, files(figure), fingerprints)


def _file_name(wanted: Wish) -> str:
    name = f"figure{wanted.name}" if wanted.name.isdigit() else wanted.name
    return f"{name}_{wanted.dataset}" if wanted.dataset else name


def _seeds(chosen: Sequence[Panel]) -> str:
    from csa.reporting.layout import spans

    numbers = [run.seed for panel in chosen for run in panel.runs]
    return f"Seeds {spans(numbers)}."


def _has_logits(run: Run) -> bool:
    """Exported records have predictions only."""
    return run.folder is not None


def _has_curve(run: Run) -> bool:
    """A head that is computed after training was evaluated once, at the end."""
    return all(run.head() in line["heads"] for line in run.evidence.metrics())


NEEDED = {
    "reliability": (_has_logits, "run folders, whose logits it is drawn from"),
    "curves": (_has_curve, "runs whose head is trained, not computed afterwards"),
}


def _those(can_be_shown: Callable[[Run], bool], chosen: Sequence[Panel]) -> list[Panel]:
    from csa.figures.store import Panel

    found = []
    for panel in chosen:
        methods = {method: [run for run in runs if can_be_shown(run)] for method, runs in panel.methods.items()}
        if any(methods.values()):
            found.append(Panel(panel.name, {method: runs for method, runs in methods.items() if runs}))
    return found


def _count_sets(chosen: Sequence[Panel]) -> list[Counts]:
    from csa.figures.counts import Counts

    found = {}
    for panel in chosen:
        run = panel.runs[0]
        split, dataset = run.result["split"], run.config["dataset"]
        ratio = f", ratio {dataset['imbalance_ratio']:g}" if dataset.get("profile") == "exp" else ""
        found[run.split] = Counts(f"{printed(run.dataset)}{ratio}", split["counts"], split["by_rank"])
    return list(found.values())


def _counts_of_a_data_set(config: Config) -> Drawn:
    """Of any data set, trained on or not."""
    from csa.data.build import load_split
    from csa.figures import counts
    from csa.figures.style import style

    split = load_split(config.dataset, config.data_dir, config.download)
    groups = {name: getattr(split.by_rank, name) for name in ("many", "medium", "few")}
    with style():
        figure = counts.draw([counts.Counts(printed(split.name), split.counts, groups)])
    return finish(f"counts_{split.name}", CAPTIONS["counts"], figure, ())


# --- from networks --------------------------------------------------------------------------


def _from_models(wanted: Wish, config: Config, runs: Sequence[Run]) -> Drawn:
    from csa.figures import from_models
    from csa.figures.store import model_runs
    from csa.reporting.fitting import fitting

    dataset, methods = _shown(wanted)
    builder = {
        **dict.fromkeys(OF_POINTS, from_models.draw_representation),
        "3": from_models.draw_class_maps,
        "11": from_models.draw_class_maps,
        "contexts": from_models.draw_contexts,
    }[wanted.name]
    with fitting() as judge:
        chosen = model_runs(runs, judge, dataset, methods, config.seed, wanted.imbalance_ratio)
    return builder(_file_name(replace(wanted, dataset=dataset)), chosen, config, dataset)


def _from_points(wanted: Wish, config: Config, runs: Sequence[Run], records: Path) -> Drawn:
    """Networks are in no record: from the points that are kept with the exported records of those runs."""
    from csa.figures.points import FOLDER, drawn_from_points
    from csa.reporting.fitting import fitting

    if wanted.name not in OF_POINTS:
        raise UserError(Fault("figure", wanted.name, "is drawn from networks, which no record has", "source=runs"))
    if faults := unrecorded("methods", wanted.methods, runs):
        raise UserError(*faults)
    dataset, methods = _shown(wanted)
    name, those = _file_name(replace(wanted, dataset=dataset)), sorted((method, config.seed) for method in methods)
    ratio, known, left_out = wanted.imbalance_ratio, {run.fingerprint: run for run in runs}, []
    with fitting() as judge:
        for drawn in drawn_from_points(records, runs, judge, reduced=wanted.reduced, name=name):
            if isinstance(drawn, str):
                left_out.append(drawn)
                continue
            shown = [known[one] for one in drawn.fingerprints]
            right_images = all(ratio in (None, run.config["dataset"]["imbalance_ratio"]) for run in shown)
            if right_images and sorted((run.method, run.seed) for run in shown) == those:
                return drawn
    problem = f"{records / FOLDER} has no points of {', '.join(methods)} with seed {config.seed} on {dataset}"
    problem = "; ".join([f"{problem}, ratio {ratio:g}" if ratio else problem, *left_out])
    allowed = "include=reduced shows those of shortened runs or other settings; source=runs draws them from networks"
    raise UserError(Fault("figure", wanted.name, problem, allowed))


def _shown(wanted: Wish) -> tuple[str, tuple[str, ...]]:
    """The data set and the methods of a figure of networks."""
    dataset, methods = MODELS[wanted.name]
    return wanted.dataset or dataset, wanted.methods or methods
