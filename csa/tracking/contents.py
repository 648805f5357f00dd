"""What MLflow is told of a record: names and values, nothing of MLflow itself."""

from __future__ import annotations

import getpass
import json
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from csa.tracking.environment import software
from csa.tracking.record import Record, State
from csa.tracking.sweeps import sweeps_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

GROUPS = ("all", "balanced", "many", "medium", "few")
# Of a metrics line, what is not a measure of the method.
STRUCTURE = ("stage", "epoch", "head", "heads", "images", "seconds", "evaluation_seconds")
# Where a run is recorded and how it was started are no parameters of it, and an address may hold a password.
NOT_PARAMETERS = ("tracking", "rerun", "sweep", "plan", "smoke")
LONGEST_VALUE = 6000
LONGEST_NOTE = 5000


@dataclass(frozen=True)
class Contents:
    """One reading of a record's folder. lines: of metrics.jsonl; sweeps: those the run belongs to."""

    folder: Path
    state: State
    fingerprint: str
    split_hash: str
    config: dict[str, Any]
    lines: list[dict[str, Any]]
    result: dict[str, Any] | None
    failure: str | None
    sweeps: list[dict[str, str | None]]

    # --- times, in milliseconds since 1970 --------------------------------------------------

    @property
    def began(self) -> int:
        ends = self.line_times()
        own = _milliseconds(self.folder / "identity.json")
        return min(own, ends[0] - _duration(self.lines[0])) if ends else own

    @property
    def ended(self) -> int:
        names = ("result.json", "failure.json", "metrics.jsonl", "identity.json")
        return next(_milliseconds(self.folder / name) for name in names if (self.folder / name).exists())

    def line_times(self) -> list[int]:
        """When each epoch ended: the file was written at the end of the last, and lines hold durations."""
        times: list[int] = []
        at = _milliseconds(self.folder / "metrics.jsonl") if self.lines else 0
        for line in reversed(self.lines):
            times.append(at)
            at -= _duration(line)
        return times[::-1]


def read(folder: Path) -> Contents | None:
    """The record as it is now, or None where no run has begun.

    Raises:
        RecordError: it is damaged, or of another version.
    """
    record = Record(folder)
    state = record.state
    if not (folder / "identity.json").exists():
        return None
    who = record.who()
    return Contents(
        folder=folder,
        state=state,
        fingerprint=who["fingerprint"],
        split_hash=who["identity"]["dataset"]["split"],
        config=record.config(),
        lines=record.metrics(),
        result=record.result() if state == "done" else None,
        failure=record.failure() if state == "failed" else None,
        sweeps=sweeps_of(folder),
    )


def run_name(contents: Contents) -> str:
    """What a run is, for the eyes: ``csa cifar100_lt ir100 resnet32 cifar delta0.8 s0``."""
    dataset, method = contents.folder.parent.parent.name, contents.folder.parent.name
    slug = contents.folder.name.removesuffix(f"-{contents.fingerprint}")
    return f"{method} {dataset} {slug.replace('-', ' ')}"


def parameters(config: Mapping[str, Any]) -> dict[str, str]:
    """The configuration by dotted keys; values as YAML would write them on one line."""
    kept = {key: value for key, value in config.items() if key not in NOT_PARAMETERS}
    found = {key: _word(value)[:LONGEST_VALUE] for key, value in _flat(kept)}
    if found.get("dataset.profile") in ("natural", "balanced"):
        found.pop("dataset.imbalance_ratio", None)  # nothing is of that ratio
    return found


def epoch_metrics(line: Mapping[str, Any]) -> dict[str, float]:
    """Of one epoch: loss, lr, the method's measures, speed, and ``<head>/<group>`` of each head.

    Without a head, the groups are those of the head that stands for the run.
    """
    values = {name: value for name, value in line.items() if name not in STRUCTURE}
    if line["seconds"] > 0:
        values["images_per_second"] = line["images"] / line["seconds"]
    heads = line["heads"]
    for head, groups in heads.items():
        values |= {f"{head}/{group}": _rounded(groups.get(group)) for group in GROUPS}
    primary = line["head"] if "head" in line else next(iter(heads)) if len(heads) == 1 else None
    if primary is not None:
        values |= {group: _rounded(heads[primary].get(group)) for group in GROUPS}
    return {name: float(value) for name, value in values.items() if value is not None}


def final_metrics(result: Mapping[str, Any]) -> dict[str, float]:
    """What only the end of a run knows, of the head that stands for it."""
    scores = result["heads"][result["head"]]
    values = {
        "best_on_test/all": _rounded(scores["best_on_test"]["all"]),
        "best_on_test/balanced": _rounded(scores["best_on_test"]["balanced"]),
        **{name: _rounded(scores["last"][name]) for name in ("macro_f1", "g_mean", "ece")},
        "training_seconds": result["training_seconds"],
    }
    if "holdout" in scores:
        values |= {f"holdout/{name}": scores["holdout"][name] for name in ("all", "balanced")}
    return values


def tags(contents: Contents) -> dict[str, str]:
    known: dict[str, Any] = {
        "csa.fingerprint": contents.fingerprint,
        "csa.split_hash": contents.split_hash,
        "csa.status": contents.state,
        "csa.folder": f"{socket.gethostname()}:{contents.folder.resolve()}",
        "mlflow.note.content": note(contents),
        **{f"csa.sweep.{sweep['name']}": "true" for sweep in contents.sweeps},
    }
    parents = [sweep["parent_run_id"] for sweep in contents.sweeps if sweep.get("parent_run_id")]
    if parents:
        known["mlflow.parentRunId"] = parents[0]
    if contents.result is not None:
        known["csa.collapsed"] = _word(contents.result["collapsed"])
        known["csa.head"] = contents.result["head"]
        known |= _revision(contents.result)
    return {key: str(value) for key, value in known.items()}


def tags_at_start(contents: Contents) -> dict[str, str]:
    """Who started it, with what: known while it runs, from its result later."""
    known = {"mlflow.user": getpass.getuser(), "mlflow.source.name": "csa", "mlflow.source.type": "LOCAL"}
    return known | (_revision(software()) if contents.state == "running" else {})


def note(contents: Contents) -> str:
    """How the run stands, in Markdown: the accuracies of each head, or the reason of a failure."""
    if contents.failure is not None:
        return f"Failed:\n\n```\n{contents.failure[-LONGEST_NOTE:]}\n```"
    if contents.result is None:
        return "In training." if contents.state == "running" else "Interrupted; the same command continues it."
    rows = ["| head | many | medium | few | all | balanced | best on test | ECE |", "| --- |" + " ---: |" * 7]
    for head, scores in contents.result["heads"].items():
        name = f"**{head}**" if head == contents.result["head"] else head
        last, best = scores["last"], scores["best_on_test"]
        cells = [_percent(last[group]) for group in ("many", "medium", "few", "all", "balanced")]
        cells += [f"{_percent(best['all'])} (epoch {best['epoch'] + 1})", _percent(last["ece"])]
        rows.append(f"| {name} | " + " | ".join(cells) + " |")
    warning = "**Collapsed**: the network predicts a single class.\n\n" if contents.result["collapsed"] else ""
    chosen = contents.result.get("chosen")
    when = "the last epoch" if chosen is None else "the epoch that was best on the validation images"
    return f"{warning}Test accuracy in % at {when}.\n\n" + "\n".join(rows)


def per_class_table(result: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Columns: class, training images, shot group (by rank), and the accuracy of each head."""
    split = result["split"]
    group_of = {index: group for group, members in split["by_rank"].items() for index in members}
    table: dict[str, list[Any]] = {
        "class": list(split["classes"]),
        "training_images": list(split["counts"]),
        "group": [group_of[index] for index in range(len(split["classes"]))],
    }
    return table | {head: list(scores["last"]["per_class"]) for head, scores in result["heads"].items()}


def _revision(known: Mapping[str, Any]) -> dict[str, str]:
    if not known["git_revision"]:
        return {}
    return {
        "csa.git_revision": known["git_revision"],
        "csa.git_dirty": _word(known["git_dirty"]),
        "mlflow.source.git.commit": known["git_revision"],
    }


def _flat(block: Mapping[str, Any], at: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in block.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{at}{key}.")
        else:
            yield f"{at}{key}", value


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _rounded(percent: float | None) -> float | None:
    """As far as it is read; the record has all digits."""
    return None if percent is None else round(percent, 2)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _duration(line: Mapping[str, Any]) -> int:
    seconds: float = line["seconds"] + line["evaluation_seconds"]
    return round(1000 * seconds)


def _milliseconds(path: Path) -> int:
    return round(1000 * path.stat().st_mtime)
