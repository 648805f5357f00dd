"""How long runs will take: from finished runs of the same kind, else from a few measured steps.

A kind is a method on a data set with a backbone and a batch size, on so many threads or a GPU. What
is known of it is the time of an image in each stage, of an evaluation, and of what surrounds training.
"""

from __future__ import annotations

import contextlib
import heapq
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import track

from csa.config.faults import RecordError
from csa.config.host import visible_gpus
from csa.console import PlainConsole, counting
from csa.sweep.calibration import calibrate
from csa.sweep.plan import draws_plainly, stage_key
from csa.sweep.processes import WALL_NAME
from csa.sweep.splits import data_key
from csa.tracking.files import read_json, write_json
from csa.tracking.run import Run

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from csa.sweep.plan import PlannedRun

CACHE_NAME = "calibration.json"
BEYOND_SECONDS = 6.0  # start and end of a process, where nothing has measured it


@dataclass(frozen=True)
class StageCost:
    """An epoch of one stage: its training images, its training and evaluation seconds."""

    images: int
    seconds: float
    evaluation_seconds: float


@dataclass(frozen=True)
class Cost:
    """Of a kind. total: images of the training set it was measured on; beyond: seconds around training."""

    stages: tuple[StageCost, ...]
    total: int
    beyond: float

    def seconds(self, epochs: Sequence[int], total: int) -> float:
        scale = total / self.total
        per_epoch = [stage.seconds * scale + stage.evaluation_seconds for stage in self.stages]
        return self.beyond + sum(count * seconds for count, seconds in zip(epochs, per_epoch, strict=False))


@dataclass
class Estimate:
    """seconds: of each run that is to be done and whose kind is known; unknown: kinds without a time."""

    seconds: dict[str, float]
    unknown: list[str]

    def wall(self, slots: int) -> float:
        """Of all runs, in the order given, each in the slot that is free first."""
        free = [0.0] * slots
        for seconds in self.seconds.values():
            heapq.heappush(free, heapq.heappop(free) + seconds)
        return max(free)


def kind(identity: Mapping[str, Any], threads: int, device: str) -> str:
    words = (
        identity["dataset"]["name"],
        identity["method"]["name"],
        identity["backbone"]["name"],
        f"batch {identity['protocol']['batch_size']}",
        "GPU" if device != "cpu" else counting(threads, "thread"),
    )
    return " ".join(words)


def estimate(runs: Sequence[PlannedRun], threads: int, *, measure: bool) -> Estimate:
    """Times of the runs. threads: of a slot; measure: calibrate the kinds that no finished run tells of."""
    kinds = {run.fingerprint: kind(run.identity, run.config.runtime.threads or threads, _device(run)) for run in runs}
    costs: dict[str, Cost] = {}
    for run in runs:
        name = kinds[run.fingerprint]
        if name not in costs and (found := _finished(run, name)) is not None:
            costs[name] = found
    if measure:
        first = {kinds[run.fingerprint]: run for run in reversed(runs)}
        costs |= _measured({name: run for name, run in first.items() if name not in costs}, threads)
    seconds, taken = {}, _finished_stages(runs)
    images: dict[str, int | None] = {}  # of each training set
    for run in runs:
        shared = _shared_stage(run)
        cost = costs.get(kinds[run.fingerprint])
        if cost is not None:
            data = data_key(run.config)
            if data not in images:
                images[data] = _images(run)
            seconds[run.fingerprint] = cost.seconds(_epochs(run, shared in taken), images[data] or cost.total)
        if shared is not None:
            taken.add(shared)
    return Estimate(seconds, sorted({name for name in kinds.values() if name not in costs}))


# --- a run ----------------------------------------------------------------------------------


def _epochs(run: PlannedRun, first_is_taken: bool) -> list[int]:
    """Epochs that are left of each stage."""
    lengths = run.config.method.stage_epochs(run.config.protocol)
    gone = run.record.epochs_so_far if run.state in ("interrupted", "running") else 0
    if first_is_taken:
        gone = max(gone, lengths[0])
    left = []
    for length in lengths:
        left.append(max(0, length - gone))
        gone = max(0, gone - length)
    return left


def _images(run: PlannedRun) -> int | None:
    """Of the training set; None where the data is not here to tell."""
    from csa.data.dataset import preview
    from csa.data.long_tail import set_aside, wanted_counts

    dataset = run.config.dataset
    known = preview(dataset, run.config.data_dir)
    if known is None:
        return None
    counts = wanted_counts(dataset, known.class_sizes)
    return sum(counts) - sum(set_aside(counts, dataset.holdout_share))


def _shared_stage(run: PlannedRun) -> str | None:
    """The training that this run starts from, by what decides it."""
    return None if run.config.method.starts_from is None else run.first_stage


def _finished_stages(runs: Sequence[PlannedRun]) -> set[str | None]:
    """Trainings that other runs can start from: those of the sweep, and finished ones."""
    identities = [run.identity for run in runs]
    starts = {(run.folder.parents[1], run.config.method.starts_from) for run in runs if run.config.method.starts_from}
    for folder, method in starts:
        for path in folder.glob(f"{method}/*/result.json"):
            with contextlib.suppress(OSError, RecordError):
                identities.append(Run(path.parent).identity)
    return {stage_key(who, who["method"]) for who in identities if draws_plainly(who)}


def _device(run: PlannedRun) -> str:
    asked = run.config.runtime.device
    return asked if asked in ("cpu", "mps") else "cuda" if visible_gpus() else "cpu"


# --- finished runs --------------------------------------------------------------------------


def _finished(run: PlannedRun, name: str) -> Cost | None:
    """Of the newest finished run of the same kind."""
    for path in sorted(run.folder.parent.glob("*/result.json"), key=lambda path: -path.stat().st_mtime):
        other = Run(path.parent)
        with contextlib.suppress(OSError, KeyError, RecordError):
            if kind(other.identity, other.result["threads"], other.result["device"]) == name:
                return _cost(other)
    return None


def _cost(run: Run) -> Cost | None:
    stages: dict[str, list[dict[str, Any]]] = {}
    for line in run.metrics():
        stages.setdefault(line["stage"], []).append(line)
    if not stages:
        return None
    try:
        beyond = float(read_json(run.folder / WALL_NAME)["beyond_training_seconds"])
    except (OSError, ValueError, KeyError):
        beyond = BEYOND_SECONDS
    costs = tuple(
        StageCost(
            lines[0]["images"],
            sum(line["seconds"] for line in lines) / len(lines),
            sum(line["evaluation_seconds"] for line in lines) / len(lines),
        )
        for lines in stages.values()
    )
    return Cost(costs, run.result["split"]["total"], beyond)


# --- measured steps -------------------------------------------------------------------------


def _measured(runs: dict[str, PlannedRun], threads: int) -> dict[str, Cost]:
    """Of each kind that could be measured; what was measured before is remembered beside the runs."""
    costs: dict[str, Cost] = {}
    asked = {}
    for name, run in runs.items():
        known = _remembered(run)
        if name in known:
            costs[name] = known[name]
        else:
            asked[name] = run
    if not asked:
        return costs
    aside = PlainConsole(stderr=True)  # standard output is the plan's
    kinds = counting(len(asked), "kind")
    aside.print(f"measuring a few steps of {kinds} of run; sweep.calibrate=false leaves it out")
    answers = calibrate({name: run.config for name, run in asked.items()}, threads)
    for name, answer in track(
        answers, "", total=len(asked), console=aside, transient=True, disable=not aside.is_terminal
    ):
        costs[name] = Cost(tuple(StageCost(*stage) for stage in answer["stages"]), answer["total"], answer["beyond"])
        _remember(asked[name], name, costs[name])
    return costs


def _remember(run: PlannedRun, name: str, cost: Cost) -> None:
    """At once: whoever stops the measuring has it go on next time."""
    path = Path(run.config.output_root).expanduser() / CACHE_NAME
    with contextlib.suppress(OSError):  # then it is measured again
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {**{key: asdict(known) for key, known in _remembered(run).items()}, name: asdict(cost)})


def _remembered(run: PlannedRun) -> dict[str, Cost]:
    try:
        known = read_json(Path(run.config.output_root).expanduser() / CACHE_NAME)
        return {
            name: Cost(tuple(StageCost(**stage) for stage in cost["stages"]), cost["total"], cost["beyond"])
            for name, cost in known.items()
        }
    except (OSError, ValueError, KeyError, TypeError):
        return {}
