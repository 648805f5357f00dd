"""A finished run as a report sees it, wherever it is recorded."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Protocol

from csa.config.faults import Fault, nearest
from csa.config.identity import canonical

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np

Origin = Literal["folder", "record", "mlflow"]
RULES = ("last", "best_on_test")
NEEDED = ("head", "heads", "collapsed", "seconds", "epochs", "run", "split", "hardware", "device", "precision")


class UnusableRunError(Exception):
    """A record that a report cannot use; the text says why."""


def unrecorded(key: str, methods: Sequence[str], runs: Sequence[Run]) -> list[Fault]:
    """Of the methods that ``key`` names those that no run is of."""
    known = sorted({run.method for run in runs})
    problem, allowed = "no run of such a method is recorded", ", ".join(known) or "none yet"
    return [Fault(key, one, problem, allowed, nearest(one, known)) for one in methods if one not in known]


class Evidence(Protocol):
    """What of a run is read only when asked for."""

    @property
    def labels(self) -> np.ndarray: ...

    def predictions(self, head: str) -> np.ndarray: ...

    def metrics(self) -> list[dict[str, Any]]: ...


@dataclass(frozen=True, eq=False)
class Run:
    """config: the resolved configuration, at least its dataset and protocol; result: as in result.json.

    where: for messages; folder: the run folder with its checkpoint, None for an exported record.
    """

    fingerprint: str
    identity: dict[str, Any]
    config: dict[str, Any]
    result: dict[str, Any]
    evidence: Evidence
    origin: Origin
    where: str
    folder: Path | None = None

    @property
    def seed(self) -> int:
        return int(self.identity["seed"])

    @property
    def method(self) -> str:
        return str(self.identity["method"]["name"])

    @property
    def dataset(self) -> str:
        return str(self.identity["dataset"]["name"])

    @property
    def split(self) -> str:
        """Hash of the data that was trained and tested on."""
        return str(self.identity["dataset"]["split"])

    @property
    def minutes(self) -> float:
        return float(self.result["seconds"]) / 60

    def head(self, wanted: str = "") -> str:
        """The wanted head where the run has it, else the one that stands for the run."""
        return wanted if wanted in self.result["heads"] else str(self.result["head"])

    def accuracy(self, rule: str, metric: str, *, head: str = "", by_count: bool = False) -> float | None:
        """Percent; None for a group without images. rule: ``last`` or ``best_on_test``."""
        scores = self.result["heads"][self.head(head)][rule]
        value = scores["by_count"][metric] if by_count and metric != "all" else scores[metric]
        return None if value is None else float(value)

    @cached_property
    def settings(self) -> str:
        """The same for runs that differ in their seed and the content of their data alone."""
        parts = {name: part for name, part in self.identity.items() if name not in ("seed", "dataset")}
        return json.dumps([parts, canonical_block(self.config["dataset"])], sort_keys=True)


def canonical_block(block: dict[str, Any]) -> dict[str, Any]:
    return {name: canonical(value) for name, value in block.items()}


def check(result: dict[str, Any], identity: dict[str, Any], config: dict[str, Any]) -> None:
    """Raises UnusableRunError where a result lacks what tables show, or an accuracy is no number."""
    try:
        missing = [name for name in NEEDED if name not in result]
        if missing:
            raise UnusableRunError(f"its result lacks {', '.join(missing)}")
        _ = identity["seed"], identity["method"]["name"], identity["dataset"]["split"], config["dataset"]["name"]
        for head, scores in result["heads"].items():
            for rule in RULES:
                _check_scores(f"head {head!r}, {rule}", scores[rule])
        _ = result["heads"][result["head"]], result["split"]["counts"], config["protocol"]
        if not math.isfinite(float(result["seconds"])):
            raise UnusableRunError("its seconds are not a finite number")
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UnusableRunError(f"its result does not hold together ({type(error).__name__}: {error})") from error


def _check_scores(where: str, scores: dict[str, Any]) -> None:
    named = {name: scores[name] for name in ("all", "many", "medium", "few")}
    named |= {f"by_count {name}": value for name, value in scores["by_count"].items()}
    for name, value in named.items():
        if value is None and name != "all":
            continue
        if not isinstance(value, int | float) or not math.isfinite(value) or not 0 <= value <= 100:
            raise UnusableRunError(f"accuracy {name!r} ({where}) is {value}, not a percentage")
