"""Every recorded run as one table: ``csa.runs()``. Whatever comes after training reads this and nothing else."""

from __future__ import annotations

import json
import math
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import pandas as pd

from csa.config.blocks import flat
from csa.config.dataset_schema import ListFilesDataset
from csa.config.schema import DatasetConfig
from csa.metrics import GROUPS
from csa.reporting.defaults import NOT_OF_THE_DATA, Beyond, Defaults, shipped_defaults
from csa.reporting.layout import PRINTED, place_in_print, printed
from csa.tracking.finding import find, usual_sources

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from csa.tracking.run import Run

ACCURACIES = ("all", "balanced", *GROUPS)
OTHERS = ("macro_f1", "g_mean", "ece")
RULES = {"last": "last", "best": "best_on_test"}
MEASURES = (*ACCURACIES, *OTHERS, *(f"count_{group}" for group in GROUPS))
SHOWN_OF_A_HASH = 8
CELL = ("data", "recipe", "line")
TABLE = list(CELL[:2])
"""Runs that have the names of ``CELL`` in common are seeds of one cell, cells that have those of ``TABLE`` lines of one
table."""
COLUMNS = (
    *(*CELL, "dataset", "imbalance_ratio", "backbone", "method", "protocol", "settings", "seed", "head", "stands"),
    *(f"{rule}_{name}" for rule in RULES for name in MEASURES),
    *("best_epoch", "chosen_epoch", "collapsed", "epochs", "shortened", "outdated", "minutes"),
    *("hardware", "device", "precision", "threads", "versions", "git_revision", "split", "fingerprint", "where", "run"),
)


def runs(*sources: str | Path, experiment: str = "csa", config_dir: str | None = None) -> pd.DataFrame:
    """Every finished run, a row for each of its heads.

    sources: folders of runs, folders of exported records, addresses of MLflow stores
    (``sqlite:///mlflow.db``); else ``outputs``, ``reports/records`` and ``mlflow.db`` here, as far as they
    are there. A run that lies in several is taken from the first. experiment: MLflow's. config_dir: as
    ``--config-dir``, for what the options of another package have beyond their defaults.

    Columns, one row a run and head:

    ========================= ==========================================================================
    data, recipe, line        which cell it is of, readable: equal for the seeds of one cell and no other
    dataset, imbalance_ratio  name; largest over smallest class, NaN of natural and balanced data
    backbone, method          names; ``method`` without its settings
    protocol, seed            name; number
    settings                  words beyond the defaults of dataset, ratio, backbone and method
    head, stands              a classifier of the run; whether it is the one that stands for the run
    last_*, best_*            percent of test images (``all``), mean of class accuracies (``balanced``),
                              ``many``, ``medium``, ``few`` by class rank, ``count_many`` ... by images,
                              ``macro_f1``, ``g_mean``, ``ece``; at the last epoch, at the best on the test set
    best_epoch                from 1
    chosen_epoch              from 1: whose network was kept by ``protocol.choose=best_on_validation``, and is what
                              ``last_*`` are of; NaN of runs that keep the last epoch's
    collapsed                 whether the head predicts one class for every test image
    epochs, shortened         trained; whether fewer than its protocol has
    minutes                   of training and evaluation
    hardware ... fingerprint  where and with what it was made, and what identifies it
    run                       the ``Run`` itself
    ========================= ==========================================================================

    Records that cannot be read are left out with a warning.

    Raises:
        UserError: a store cannot be reached, or ``config_dir`` is no folder.
    """
    import warnings

    found = find(sources or usual_sources(), experiment)
    for text in (*found.left_out, *found.notes):
        warnings.warn(text, stacklevel=2)
    return frame_of(found.runs, config_dir)


def frame_of(runs: Iterable[Run], config_dir: str | None = None) -> pd.DataFrame:
    """The frame of runs that are at hand, by data set, recipe, method and seed."""
    runs = list(runs)
    known = Defaults(config_dir) if config_dir else shipped_defaults()
    beyond = {run.fingerprint: known.beyond(run) for run in runs}
    labels = _labels(runs, beyond)
    lines = [
        {**labels[run.fingerprint], **_of_the_run(run, beyond[run.fingerprint]), **_of_the_head(run, head)}
        for run in runs
        for head in run.result["heads"]
    ]
    frame = pd.DataFrame(lines, columns=list(COLUMNS))
    if not lines:
        return frame
    order = pd.Series([_order(run) for run in frame["run"]])
    by = ["order", *CELL, "seed", "fingerprint"]
    frame = frame.assign(order=order).sort_values(by, kind="stable", ignore_index=True)
    return frame.drop(columns="order")


def _order(run: Run) -> tuple[int, str, float]:
    """Data sets as the paper has them, then others by name; the highest ratio first."""
    return place_in_print(run.dataset), run.dataset, -_ratio(run.config["dataset"], 0)


def _of_the_run(run: Run, beyond: Beyond) -> dict[str, Any]:
    result, dataset = run.result, run.config["dataset"]
    words = (*beyond.data, *(word for word in beyond.recipe if not word.startswith("backbone=")), *beyond.method)
    return {
        "dataset": run.dataset,
        "imbalance_ratio": _ratio(dataset),
        "backbone": str(run.identity["backbone"]["name"]),
        "method": run.method,
        "protocol": str(run.config["protocol"].get("name", "")),
        "settings": " ".join(words),
        "seed": run.seed,
        "chosen_epoch": 1.0 + ([*result["chosen"]["epochs"].values()][-1] if "chosen" in result else math.nan),
        "epochs": int(result["epochs"]),
        "shortened": beyond.usual_epochs is not None and run.config["protocol"]["epochs"] < beyond.usual_epochs,
        "outdated": beyond.outdated,
        "minutes": float(result["seconds"]) / 60,
        "hardware": str(result["hardware"]),
        "device": str(result["device"]),
        "precision": str(result["precision"]),
        "threads": result.get("threads"),
        "versions": " ".join(f"{name}={version}" for name, version in sorted(result.get("packages", {}).items())),
        "git_revision": result.get("git_revision"),
        "split": run.split,
        "fingerprint": run.fingerprint,
        "where": run.where,
        "run": run,
    }


def _of_the_head(run: Run, head: str) -> dict[str, Any]:
    found: dict[str, Any] = {"head": head, "stands": head == run.result["head"]}
    for short, rule in RULES.items():
        scores = run.scores(rule, head)
        values = {name: scores.get(name) for name in (*ACCURACIES, *OTHERS)}
        values |= {f"count_{group}": scores["by_count"][group] for group in GROUPS}
        found |= {f"{short}_{name}": math.nan if value is None else float(value) for name, value in values.items()}
    found["best_epoch"] = run.scores("best_on_test", head).get("epoch", -1) + 1
    predicted = run.scores(head=head).get("predicted_classes")
    found["collapsed"] = bool(run.result["collapsed"]) if found["stands"] else predicted == 1
    return found


def _ratio(dataset: dict[str, Any], otherwise: float = math.nan) -> float:
    shaped = dataset.get("profile") in ("exp", "step")
    return float(dataset["imbalance_ratio"]) if shaped else otherwise


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


# --- names of cells -------------------------------------------------------------------------


def _labels(runs: Sequence[Run], beyond: dict[str, Beyond]) -> dict[str, dict[str, str]]:
    """Of each run (fingerprint) the names of its data, recipe and line: different where what was recorded is."""
    found: dict[str, dict[str, str]] = {run.fingerprint: {} for run in runs}
    for column, (key_of, name_of) in NAMING.items():
        by_place: dict[tuple[str, ...], dict[str, list[Run]]] = {}
        for run in runs:
            place = tuple(found[run.fingerprint].values()) if column == "line" else ()
            by_key = by_place.setdefault(place, {})
            by_key.setdefault(json.dumps(key_of(run), sort_keys=True), []).append(run)
        for by_key in by_place.values():
            plain = {key: name_of(group[0], beyond[group[0].fingerprint]) for key, group in by_key.items()}
            for key, group in by_key.items():
                same = sorted(other for other, name in plain.items() if name == plain[key])
                suffix = "" if len(same) == 1 else f" ({_told_apart(column, key, same, group[0])})"
                for run in group:
                    found[run.fingerprint][column] = plain[key] + suffix
    return found


def _told_apart(column: str, key: str, same: Sequence[str], run: Run) -> str:
    """What no word says: another subset of the images, or settings of which the defaults are not known here."""
    if column == "data" and len({json.loads(other)[1] for other in same}) == len(same):
        return f"subset {run.split[:SHOWN_OF_A_HASH]}"
    recorded = {other: flat(dict(enumerate(json.loads(other)))) for other in same}
    first, own = recorded[same[0]], recorded[key]
    differing = [name for name in first if len({json.dumps(one.get(name)) for one in recorded.values()}) > 1]
    settings = ", ".join(f"{name.rpartition('.')[2]}={own.get(name)}" for name in differing[:3])
    return settings or str(same.index(key) + 1)


LATER = {
    field.name: field.metadata["neutral"]
    for schema in (DatasetConfig, ListFilesDataset)
    for field in fields(schema)
    if "neutral" in field.metadata
}
"""Keys of data sets that earlier records lack, and what these stand for there."""


def _data_block(run: Run) -> dict[str, Any]:
    block = {name: value for name, value in run.config["dataset"].items() if name not in NOT_OF_THE_DATA}
    return {name: value for name, value in block.items() if name not in LATER or LATER[name] != value}


def data_name(run: Run, words: Sequence[str] = ()) -> str:
    """``CIFAR-100-LT, ratio 100``; own images by their folder or file as well."""
    dataset = run.config["dataset"]
    own = str(dataset.get("path") or dataset.get("lists") or "").rstrip("/").rpartition("/")[2]
    parts = [f"{own} ({run.dataset})" if own and run.dataset not in (*PRINTED, own) else printed(run.dataset)]
    ratio = _ratio(dataset)
    parts += [] if math.isnan(ratio) else [f"ratio {ratio:g}"]
    return ", ".join([*parts, *map(_short, words)])


def recipe_name(run: Run, words: Sequence[str] = ()) -> str:
    """``ResNet-32, 200 epochs``; a protocol that is not the data set's own, and what of it differs."""
    named = [word.partition("=")[2] for word in words if word.startswith("protocol=")]
    others = [_short(word) for word in words if not word.startswith(("protocol=", "backbone=", "protocol.epochs="))]
    epochs = int(run.config["protocol"]["epochs"])
    length = f"{epochs} epoch{'' if epochs == 1 else 's'}"
    return ", ".join([printed(str(run.identity["backbone"]["name"])), *named, length, *others])


def _short(word: str) -> str:
    """A word without its group: ``method.bank=false`` is ``bank=false``."""
    key, _, value = word.partition("=")
    if key == "dataset.label_flip":
        return f"{100 * float(value):g} % of labels flipped"
    return f"{key.rpartition('.')[2]}={value}" if key != "variant" else value


def line_name(run: Run, words: Sequence[str] = ()) -> str:
    """``CSA, delta=0.3``."""
    return ", ".join([printed(run.method), *map(_short, words)])


NAMING: dict[str, tuple[Callable[[Run], Any], Callable[[Run, Beyond], str]]] = {
    "data": (lambda run: [_data_block(run), run.split], lambda run, beyond: data_name(run, beyond.data)),
    "recipe": (
        lambda run: [run.identity[part] for part in ("backbone", "protocol", "results_version")],
        lambda run, beyond: recipe_name(run, beyond.recipe),
    ),
    "line": (
        lambda run: [run.identity.get(part) for part in ("method", "sampler", "variant", "corrections")],
        lambda run, beyond: line_name(run, beyond.method),
    ),
}
"""Of each part of a cell what was recorded of it, and its name."""
