"""Which figures there are, from which runs each is drawn, and what they are called."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from csa.cli import say
from csa.config.faults import Fault, UserError
from csa.figures import classes, results
from csa.figures.panel import Panel, looks_of, panel
from csa.figures.style import files, style
from csa.metrics import GROUPS
from csa.reporting.frame import one_head
from csa.reporting.layout import Drawn, printed
from csa.reporting.paper import load_published
from csa.reporting.rendering import write_files
from csa.reporting.sections import sections
from csa.reporting.tables import BASELINE, unrecorded

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
    from pathlib import Path

    import pandas as pd
    from matplotlib.figure import Figure

    from csa.config.schema import Config
    from csa.reporting.layout import Section
    from csa.tracking.run import Run

OF_A_TABLE = ("forest", "per_class", "curves", "confusion", "reliability", "counts", "delta")
"""Of the runs of one table, whatever the data set; in this order on the page."""
NAMES = ("2", "3", "4", "10", "11", "contexts", *OF_A_TABLE)
FIGURE_4_DATASETS, FIGURE_4_METHODS = ("mnist_lt", "cmnist_lt"), ("ce", "crt", "cbrs")
MODELS: dict[str, tuple[str, tuple[str, ...]]] = {
    "2": ("mnist_lt", ("ce", "cbrs")),
    "3": ("cifar100_lt", ("ce", "cbrs")),
    "10": ("cifar100_lt", ("ce", "cbrs", "csa")),
    "11": ("cifar100_lt", ("ce", "cbrs", "csa")),
    "contexts": ("cifar100_lt", ("csa",)),
}
"""Of networks: the data set and the methods of the paper's figure. Drawn when asked for, of one seed."""
OF_POINTS = ("2", "10")
MOST_CONFUSED = 20  # more classes have no readable matrix in a report
FEWEST_THRESHOLDS = 2
CAPTIONS = {
    "4": "Accuracy of each class at the last epoch.",
    "forest": "Difference in accuracy to the baseline, runs of the same seed being a pair.",
    "per_class": "Accuracy of each class at the last epoch.",
    "curves": "Test accuracy after every epoch. A first stage that runs share is drawn once; the picture begins where "
    "curves come near their end.",
    "confusion": "Of the test images of each class (rows) the share taken for each class (columns).",
    "reliability": "Share of right test images over confidence in 15 bins; below, images of each bin. ECE in percent.",
    "counts": "Training images of each class by shot group (class rank).",
    "delta": "Test accuracy of CSA over its threshold.",
}
OF_SEEDS = {
    "4": "Bars are means over seeds (their number in brackets), whiskers sample standard deviations.",
    "forest": "Small points are pairs, large ones their mean with its 95 % interval (from three pairs on).",
    "per_class": "Mean and sample standard deviation over seeds (their number in brackets).",
    "curves": "Mean and range of the seeds (their number in brackets).",
    "confusion": "Mean over seeds (their number in brackets).",
    "reliability": "All seeds together, of ECE the mean.",
    "delta": "Points are seeds.",
}
"""What a caption says as well where a line has several."""
OF_MANY_CLASSES = "A running mean over nine classes in order of size{}."
NEEDED = {
    "reliability": "run folders, whose logits it is drawn from",
    "curves": "runs whose head is trained, not computed afterwards",
    "delta": "runs of CSA with two thresholds or more",
    "forest": f"runs of the baseline ({BASELINE}, or baseline=) and of another method with the same seed",
}


@dataclass(frozen=True)
class Wish:
    """What the command says of the figure. dataset, methods: empty where it does not."""

    name: str
    dataset: str = ""
    methods: tuple[str, ...] = ()
    imbalance_ratio: float | None = None
    baseline: str = BASELINE
    head: str = ""


# --- from records ---------------------------------------------------------------------------


def of_report(frame: pd.DataFrame, found: Sequence[Section], head: str = "") -> tuple[list[Section], list[Drawn]]:
    """Every section of one recipe with its figures; and the paper's own figure of several data sets."""
    looks = looks_of(frame)
    panels = {one.name: panel(one, frame, looks, head) for one in found if one.data["recipe"].nunique() == 1}
    shown = [
        replace(one, figures=tuple(_of_table(panels[one.name], OF_A_TABLE))) if one.name in panels else one
        for one in found
    ]
    figure_4 = _figure_4(list(panels.values()))
    return shown, [figure_4] if figure_4 else []


def from_records(wanted: Wish, frame: pd.DataFrame) -> list[Drawn]:
    """One figure of each table that has runs for it. Raises UserError where there is none."""
    if faults := unrecorded("methods", wanted.methods, sorted(set(frame["method"]))):
        raise UserError(*faults)
    chosen = frame[frame["dataset"] == wanted.dataset] if wanted.dataset else frame
    if wanted.methods:
        compared = [wanted.baseline] if wanted.name == "forest" else []
        chosen = chosen[chosen["method"].isin([*wanted.methods, *compared])]
    looks = looks_of(frame)
    tables = sections(chosen, wanted.baseline, head=wanted.head, joined=False)
    panels = [panel(one, chosen, looks, wanted.head) for one in tables]
    if wanted.name == "4":
        drawn = _figure_4(panels, wanted)
        found = [drawn] if drawn else []
    else:
        found = [drawn for one in panels for drawn in _of_table(one, [wanted.name])]
    if not found:
        what = f" on {wanted.dataset}" if wanted.dataset else ""
        raise UserError(
            Fault(
                "figure",
                wanted.name,
                f"no recorded run{what} can be shown in it",
                NEEDED.get(wanted.name, "see csa.records"),
            )
        )
    return found


def _of_table(shown: Panel, names: Sequence[str]) -> Iterator[Drawn]:
    drawers: dict[str, Callable[[Panel], Figure | None]] = {
        "forest": lambda one: results.forest(one) if one.has_baseline and one.data["pairs"].max() > 0 else None,
        "per_class": classes.per_class,
        "curves": results.curves,
        "confusion": lambda one: classes.confusion(one) if len(names) == 1 or len(one.order) <= MOST_CONFUSED else None,
        "reliability": results.reliability,
        "counts": lambda one: classes.counts(
            one.data["data"].iloc[0], one.split["classes"], one.split["counts"], one.split["by_rank"]
        ),
        "delta": _delta,
    }
    for name in names:
        with style():
            figure = drawers[name](shown)
            if figure is not None:
                content = files(figure)
                caption = _caption(name, shown)
                prints = tuple(run.fingerprint for run in shown.runs)
                yield Drawn(f"{name}_{shown.name}", caption, content, prints, section=shown.name)


def _caption(name: str, shown: Panel) -> str:
    parts = [f"{shown.title}.", CAPTIONS[name]]
    if name == "per_class" and len(shown.order) > classes.MOST_MARKED:
        parts.append(OF_MANY_CLASSES.format(", as difference to the baseline" if classes.as_differences(shown) else ""))
    return " ".join([*parts, *_of_seeds(name, shown), *([] if name == "counts" else [shown.seeds()])])


def _of_seeds(name: str, *panels: Panel) -> list[str]:
    several = any(len(line.runs) > 1 for one in panels for line in one.lines)
    return [OF_SEEDS[name]] if several and name in OF_SEEDS else []


def _delta(shown: Panel) -> Figure | None:
    found = results.thresholds(shown)
    if len(found) < FEWEST_THRESHOLDS:
        return None
    published = load_published()
    run = found[0][1].runs[0]
    here = (published["table"] == "5") & (published["dataset"] == run.dataset)
    here &= published["imbalance_ratio"] == run.config["dataset"]["imbalance_ratio"]
    published = published[here]
    return results.delta(shown, published.assign(delta=published["row"].str.removeprefix("delta ").astype(float)))


def _figure_4(panels: Sequence[Panel], wanted: Wish | None = None) -> Drawn | None:
    """CE, cRT and CB-RS in black and white and in colour, with plain settings and in full length."""
    methods = wanted.methods if wanted and wanted.methods else FIGURE_4_METHODS
    datasets = (wanted.dataset,) if wanted and wanted.dataset else FIGURE_4_DATASETS
    chosen = []
    for dataset in datasets:
        for one in panels:
            plain = {
                row["line"]: row["method"]
                for row in one.data.to_dict("records")
                if row["method"] in methods and not row["settings"]
            }
            known = [line for line in one.lines if line.name in plain]
            shown = tuple(sorted(known, key=lambda line: methods.index(plain[line.name])))
            if one.runs[0].dataset == dataset and shown:
                chosen.append(replace(one, lines=shown))
    if not chosen:
        return None
    with style():
        content = files(classes.bars(chosen))
    name = f"figure4_{wanted.dataset}" if wanted and wanted.dataset else "figure4"
    prints = tuple(run.fingerprint for one in chosen for run in one.runs)
    caption = " ".join([CAPTIONS["4"], *_of_seeds("4", *chosen)])
    return Drawn(name, caption, content, prints)


def of_data_set(config: Config) -> Drawn:
    """``figure=counts`` of any data set, trained on or not."""
    from csa.data.dataset import load_split

    split = load_split(config.dataset, config.data_dir, config.download)
    groups = {name: getattr(split.by_rank, name) for name in GROUPS}
    with style():
        content = files(classes.counts(printed(split.name), split.classes, split.counts, groups))
    return Drawn(f"counts_{split.name}", CAPTIONS["counts"], content)


# --- from networks --------------------------------------------------------------------------


def from_models(wanted: Wish, config: Config, frame: pd.DataFrame) -> Drawn:
    from csa.figures.networks import draw_class_maps, draw_contexts, model_runs
    from csa.figures.representation import draw_representation

    dataset, methods = _shown(wanted)
    builder = {
        **dict.fromkeys(OF_POINTS, draw_representation),
        **dict.fromkeys(("3", "11"), draw_class_maps),
        "contexts": draw_contexts,
    }[wanted.name]
    chosen = model_runs(one_head(frame), dataset, methods, config.seed, wanted.imbalance_ratio)
    return builder(_file_name(wanted, dataset), chosen, config, dataset)


def from_points(wanted: Wish, seed: int, frame: pd.DataFrame, records: Path) -> Drawn:
    """Networks are in no record: from the points that are kept with the exported records of those runs."""
    from csa.figures.representation import FOLDER, drawn_from_points

    if wanted.name not in OF_POINTS:
        raise UserError(Fault("figure", wanted.name, "is drawn from networks, which no record has", "source=runs"))
    if faults := unrecorded("methods", wanted.methods, sorted(set(frame["method"]))):
        raise UserError(*faults)
    dataset, methods = _shown(wanted)
    ratio, left_out = wanted.imbalance_ratio, []

    def meant(runs: Sequence[Run]) -> bool:
        right_images = all(ratio in (None, run.config["dataset"]["imbalance_ratio"]) for run in runs)
        return right_images and sorted((run.method, run.seed) for run in runs) == sorted((one, seed) for one in methods)

    for drawn in drawn_from_points(records, frame, _file_name(wanted, dataset), meant):
        if isinstance(drawn, Drawn):
            return drawn
        left_out.append(drawn)
    problem = f"{records / FOLDER} has no points of {', '.join(methods)} with seed {seed} on {dataset}"
    problem = "; ".join([f"{problem}, ratio {ratio:g}" if ratio else problem, *left_out])
    raise UserError(Fault("figure", wanted.name, problem, "source=runs draws them from networks"))


def _shown(wanted: Wish) -> tuple[str, tuple[str, ...]]:
    """The data set and the methods of a figure of networks."""
    dataset, methods = MODELS[wanted.name]
    return wanted.dataset or dataset, wanted.methods or methods


def _file_name(wanted: Wish, dataset: str) -> str:
    return f"figure{wanted.name}_{dataset}" if wanted.name.isdigit() else f"{wanted.name}_{dataset}"


# --- files ----------------------------------------------------------------------------------


def write(found: Sequence[Drawn], to: Path) -> None:
    """The PNG, SVG and caption of each, told."""
    for drawn in found:
        for name, content in drawn.with_caption.items():
            write_files(to, {name: content})
            say(str(to / name))
        say(drawn.caption)


def wish(own: Mapping[str, str], named: Collection[str], config: Config) -> Wish:
    methods = tuple(dict.fromkeys(filter(None, own["methods"].split(","))))
    dataset = config.dataset.name if "dataset" in named else ""
    ratio = config.dataset.imbalance_ratio if "dataset.imbalance_ratio" in named else None
    return Wish(own["figure"], dataset, methods, ratio, own["baseline"] or BASELINE, own["head"])
