"""What a record holds, field by field: the door at which damaged and foreign records are turned away.

A configuration is described by ``csa.config.schema``, an identity by the fingerprint that it gives. More fields may be
there, of a later version.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, fields
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from csa.config.blocks import recorded_faults
from csa.config.faults import REMEDY, RecordError
from csa.config.identity import fingerprint
from csa.config.schema import (
    BackboneConfig,
    DatasetConfig,
    MethodConfig,
    ProtocolConfig,
    SamplerConfig,
    later,
    number,
)
from csa.metrics import GROUPS, Scores, Summary, percent
from csa.tracking.files import UNREADABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from csa.config.faults import Fault

SCHEMA = 2
"""2: groups are means of class accuracies, where 1 had the share of right images; ``balanced``, macro F1 and G-mean."""
READ_SCHEMAS = (1, SCHEMA)
SINCE_2 = frozenset({"balanced", "g_mean", "macro_f1"})
"""Fields that a result of schema 1 lacks; they follow from the others."""
MOST_TOLD, LONGEST = 3, 200  # faults of a file, characters of one


def count(least: int = 0) -> Any:
    return number(at_least=least)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What of config.yaml decides the run, and an exported record has."""

    dataset: DatasetConfig
    sampler: SamplerConfig
    method: MethodConfig
    backbone: BackboneConfig
    protocol: ProtocolConfig
    delta: float = number(at_least=0, at_most=1)
    seed: int = count()
    variant: str


@dataclass(frozen=True, kw_only=True)
class Tracking:
    """How it was tracked is told, and not read again: its tracker may have moved, or not be here."""

    name: str


@dataclass(frozen=True, kw_only=True)
class FolderConfig(RunConfig):
    tracking: Tracking


@dataclass(frozen=True, kw_only=True)
class Evaluation(Scores):
    """epoch: of the best one; temperature: of validation images."""

    confusion: Any = None  # it lies with the test outputs
    epoch: int = later(at_least=0)
    temperature: float = later(at_least=0)


@dataclass(frozen=True, kw_only=True)
class Head:
    last: Evaluation
    best_on_test: Evaluation
    holdout: Evaluation = later()  # noqa: RUF009


NAMES_OF_A_HEAD = [one.name for one in fields(Head)]


@dataclass(frozen=True, kw_only=True)
class Names:
    dataset: str
    method: str
    backbone: str
    protocol: str
    sampler: str
    seed: int
    variant: str


@dataclass(frozen=True, kw_only=True)
class Split:
    hash: str
    classes: list[str]
    counts: list[int] = count()  # noqa: RUF009 (no default, metadata)
    image_shape: list[int] = count(1)  # noqa: RUF009
    mean: list[float]
    std: list[float]
    total: int = count()
    test_images: int = count()
    holdout_images: int = count()
    by_rank: dict[str, list[int]] = count()  # noqa: RUF009
    by_count: dict[str, list[int]] = count()  # noqa: RUF009


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """Under ``protocol.choose`` the epoch of each stage whose network is kept."""

    rule: str
    epochs: dict[str, int] = count()  # noqa: RUF009


@dataclass(frozen=True, kw_only=True)
class Result(Summary):
    """``csa.training.evaluation``, and what the machine and its software were."""

    schema: int
    status: Literal["done"]
    fingerprint: str
    head: str
    heads: dict[str, Head]
    collapsed: bool
    chosen: Chosen = later()  # noqa: RUF009
    unreadable_images: int = later(at_least=0)
    epochs: int = count()
    reused_epochs: int = count()
    seconds: float = count()
    training_seconds: float = count()
    images_per_second: float | None = count()
    step_mode: str
    run: Names
    split: Split
    device: str
    hardware: str
    precision: str
    threads: int = count(1)
    python: str
    packages: dict[str, str]
    git_revision: str | None
    git_dirty: bool | None


@dataclass(frozen=True, kw_only=True)
class Line:
    """One of metrics.jsonl; what else is there are numbers: loss, rate, the measures of the method."""

    stage: str
    epoch: int = count()
    heads: dict[str, dict[str, float | None]] = percent()  # noqa: RUF009
    head: str | None = None
    images: int = count()
    seconds: float = count()
    evaluation_seconds: float = count()


NAMES_OF_A_LINE = {one.name for one in fields(Line)}


# --- the door -------------------------------------------------------------------------------


@contextmanager
def reading(path: Path, remedy: str = REMEDY, *, unless: type[Exception] | tuple[()] = ()) -> Iterator[None]:
    """Raises RecordError for what reading a damaged file raises. unless: what is raised as it is."""
    try:
        yield
    except unless:
        raise
    except UNREADABLE as error:
        reason = str(error).partition("\n")[0]
        raise RecordError(path, f"cannot be read ({type(error).__name__}: {reason})", remedy) from error


def refuse(path: Path, faults: Iterable[Fault | str], remedy: str = REMEDY) -> None:
    """Raises RecordError where there are faults."""
    texts = [text if len(text) <= LONGEST else f"{text[:LONGEST]}..." for text in map(str, faults)]
    if texts:
        more = f"; and {len(texts) - MOST_TOLD} more" if len(texts) > MOST_TOLD else ""
        raise RecordError(path, f"cannot be used: {'; '.join(texts[:MOST_TOLD])}{more}", remedy)


def sound(path: Path, read: Callable[[Path], Any], faults: Callable[[Any], Iterable[Fault | str]]) -> Any:
    """What is read of a file. Raises FileNotFoundError where it is not there, RecordError where it is damaged."""
    with reading(path, unless=FileNotFoundError):
        content = read(path)
    refuse(path, faults(content))
    return content


def config_faults(config: Any, kind: type[RunConfig] = RunConfig) -> list[Fault]:
    return recorded_faults(kind, config, "config")


def identity_faults(who: Any) -> Iterator[str]:
    """who: as in identity.json, ``fingerprint`` and ``identity``."""
    if not isinstance(who, dict) or fingerprint(who.get("identity", {})) != who.get("fingerprint"):
        yield "its fingerprint is not that of its identity"


def result_faults(result: Any) -> Iterator[Fault | str]:
    schema = result.get("schema") if isinstance(result, dict) else SCHEMA
    if schema not in READ_SCHEMAS:
        yield f"has schema {schema}, this version reads {SCHEMA}"
        return
    found = recorded_faults(Result, result, "result", lacking=SINCE_2 if schema == 1 else ())
    yield from found or _disagreements(result)


def _disagreements(result: Mapping[str, Any]) -> Iterator[str]:
    """Of fields that are each sound."""
    split, heads, head = result["split"], result["heads"], result["head"]
    classes = len(split["classes"])
    if head not in heads:
        yield f"head={head}: is none of its heads"
    elif result["collapsed"] != (heads[head]["last"]["predicted_classes"] == 1):
        yield "collapsed: is not what its predicted classes say"
    if len(split["counts"]) != classes or sum(split["counts"]) != split["total"] or len(split["image_shape"]) != 3:
        yield "split: its numbers of images, classes and channels do not agree"
    if not result.get("chosen", {"epochs": "of none"})["epochs"]:
        yield "chosen.epochs: names no stage"
    for name in ("by_rank", "by_count"):
        if set(split[name]) != set(GROUPS) or sorted(chain(*split[name].values())) != list(range(classes)):
            yield f"split.{name}: is no division of {classes} classes into many, medium and few"
    yield from _disagreements_of_heads(heads, classes)


def _disagreements_of_heads(heads: Mapping[str, Any], classes: int) -> Iterator[str]:
    for head, evaluations in heads.items():
        for name, one in ((name, evaluations[name]) for name in NAMES_OF_A_HEAD if name in evaluations):
            if len(one["per_class"]) != classes or set(one["by_count"]) != set(GROUPS):
                yield f"heads.{head}.{name}: is not of {classes} classes in three groups"
        if "epoch" not in evaluations["best_on_test"]:
            yield f"heads.{head}.best_on_test.epoch: is missing"


def agreement_faults(who: Mapping[str, Any], config: Mapping[str, Any], result: Mapping[str, Any]) -> Iterator[str]:
    """Where parts that are each sound tell of different runs."""
    identity, run = who["identity"], result["run"]
    groups = ("dataset", "method", "backbone", "protocol", "sampler")
    named = {group: config[group]["name"] for group in groups} | {key: config[key] for key in ("seed", "variant")}
    identified = {group: identity[group]["name"] for group in ("dataset", "method", "backbone")}
    identified |= {key: identity[key] for key in ("seed", "variant")}
    for name, value in {**named, **identified}.items():
        if not value == named[name] == run[name]:
            yield f"{name}: {named[name]} is configured, {run[name]} was run, {value} is identified"
    if result["fingerprint"] != who["fingerprint"] or result["split"]["hash"] != identity["dataset"]["split"]:
        yield "its result is another run's"


def line_faults(lines: Any) -> Iterator[Fault | str]:
    """lines: of metrics.jsonl."""
    if not isinstance(lines, list):
        yield "its metrics are no list of lines"
        return
    for position, line in enumerate(lines, 1):
        found = recorded_faults(Line, line, f"line {position}")
        yield from found
        others = {} if found else {name: value for name, value in line.items() if name not in NAMES_OF_A_LINE}
        for name, value in others.items():
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
                yield f"line {position}.{name}={value}: is not a number"


def check_predictions(result: Mapping[str, Any], labels: np.ndarray, predictions: Mapping[str, np.ndarray]) -> None:
    """Raises ValueError where they are not a class of each test image."""
    classes = len(result["split"]["classes"])
    if predictions.keys() != result["heads"].keys():
        raise ValueError(f"holds heads {', '.join(predictions)} instead of {', '.join(result['heads'])}")
    for name, array in {"labels": labels, **predictions}.items():
        if array.ndim != 1 or array.dtype.kind not in "iu" or array.shape != labels.shape or not len(array):
            raise ValueError(f"{name}: {array.dtype} {list(array.shape)} instead of a class of each image")
        if array.min() < 0 or array.max() >= classes:
            raise ValueError(f"{name}: a class that is none of the {classes}")
