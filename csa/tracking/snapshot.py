"""A run as trackers read it: at one moment, its configuration by dotted keys, its numbers by their names there."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from csa.config.blocks import flat
from csa.tracking.run import Run
from csa.tracking.sweeps import sweeps_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from csa.tracking.run import State

GROUPS = ("all", "balanced", "many", "medium", "few")
# Of a metrics line, what is not a measure of the method.
STRUCTURE = ("stage", "epoch", "head", "heads", "images", "seconds", "evaluation_seconds")
# Where a run is recorded and how it was started are no parameters of it, and an address may hold a password.
NOT_PARAMETERS = ("tracking", "rerun", "sweep", "plan", "smoke")
LONGEST_VALUE = 6000


class Snapshot(Run):
    """A run that has begun, as it stood at one moment: its state, and the epochs that it had by then.

    lines: of metrics.jsonl, an epoch each; sweeps: those that it belongs to (``csa.tracking.sweeps.sweeps_of``); key:
    by which a tracker may call it: another one after the run was started over. Raises RecordError where the lines are
    damaged.
    """

    def __init__(self, folder: Path, key: str = "") -> None:
        super().__init__(folder)
        self.key = key
        self._state = super().state  # before the lines: a run that is done has all of them
        self.lines = self.metrics()
        self.sweeps = sweeps_of(folder)

    @property
    def state(self) -> State:
        return self._state

    @property
    def name(self) -> str:
        """What the run is, for the eyes: ``csa cifar100_lt ir100 resnet32 cifar delta0.8 s0``."""
        dataset, method = self.folder.parent.parent.name, self.folder.parent.name
        slug = self.folder.name.removesuffix(f"-{self.fingerprint}")
        return f"{method} {dataset} {slug.replace('-', ' ')}"

    @property
    def settings(self) -> dict[str, Any]:
        """The configuration by dotted keys."""
        found = flat({key: value for key, value in self.config.items() if key not in NOT_PARAMETERS})
        if found.get("dataset.profile") in ("natural", "balanced"):
            found.pop("dataset.imbalance_ratio", None)  # nothing is of that ratio
        return found

    @property
    def parameters(self) -> dict[str, str]:
        """The same as texts; values as YAML would write them on one line."""
        return {key: in_a_word(value)[:LONGEST_VALUE] for key, value in self.settings.items()}

    def epochs(self) -> list[dict[str, float]]:
        """The metrics of each epoch: loss, lr, the method's measures, speed, and ``<head>/<group>`` of each head.

        Without a head, the groups are those of the head that stands for the run.
        """
        return [_epoch_metrics(line) for line in self.lines]

    def final_metrics(self) -> dict[str, float]:
        """What only the end of a run knows, of the head that stands for it; nothing before."""
        return _final_metrics(self.result) if self.state == "done" else {}

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


def in_a_word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _epoch_metrics(line: Mapping[str, Any]) -> dict[str, float]:
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


def _final_metrics(result: Mapping[str, Any]) -> dict[str, float]:
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


def _rounded(percent: float | None) -> float | None:
    """As far as it is read; the record has all digits."""
    return None if percent is None else round(percent, 2)


def _duration(line: Mapping[str, Any]) -> int:
    seconds: float = line["seconds"] + line["evaluation_seconds"]
    return round(1000 * seconds)


def _milliseconds(path: Path) -> int:
    return round(1000 * path.stat().st_mtime)
