"""What a sweep consists of: its cells as runs, duplicates merged, each with its state on the disk.

Torch is not imported, and making a plan writes nothing (but the memory of the data's hashes).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from csa.config.blocks import build_block
from csa.config.cells import swept_keys
from csa.config.composer import Composer
from csa.config.composition import spelt_out
from csa.config.faults import Fault, RecordError, UserError
from csa.config.identity import fingerprint, identity, run_folder
from csa.config.schema import SweepConfig
from csa.config.words import parsed
from csa.data.dataset import inspect
from csa.request import Feasibility
from csa.summary import keep_shown_settings
from csa.sweep.splits import data_key, split_hashes
from csa.tracking.record import Record

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from omegaconf import DictConfig

    from csa.config.cells import Cell
    from csa.config.composition import Tree
    from csa.config.schema import Config
    from csa.tracking.run import State

STATES: tuple[State, ...] = ("done", "running", "interrupted", "failed", "planned")
MOST_OF_A_NAME = 80  # characters


@dataclass(eq=False)
class PlannedRun:
    """One run that a sweep asks for. cells: those it stands for, more than one where they are duplicates.

    folder: where its record lies or will lie.
    """

    cells: list[Cell]
    config: Config
    identity: dict[str, Any]
    fingerprint: str
    folder: Path

    @property
    def words(self) -> tuple[str, ...]:
        """As any composition takes them, Hydra's own too."""
        return tuple(spelt_out(self.cells[0].words, self.config))

    @property
    def record(self) -> Record:
        return Record(self.folder)

    @property
    def state(self) -> State:
        return self.record.state

    @property
    def first_stage(self) -> str | None:
        """What its first stage trains, by what decides it; None where no run of another method can start from that."""
        method, settings = self.config.method, self.identity["method"]
        if method.starts_from is not None:
            own = {name: settings[name] for name in method.start_settings}
            return stage_key(self.identity, {"name": method.starts_from, **own})
        return stage_key(self.identity, settings) if draws_plainly(self.identity) else None


def draws_plainly(identity: Mapping[str, Any]) -> bool:
    """Whether a run of one stage draws as those do that others can start from."""
    return bool(identity.get("sampler", {}).get("rule") == "shuffle")


def stage_key(identity: Mapping[str, Any], method: Mapping[str, Any]) -> str:
    """Names the training of a method with these settings under what else decides it."""
    parts = {key: identity[key] for key in ("dataset", "backbone", "protocol", "seed", "variant")}
    return json.dumps([dict(method), parts], sort_keys=True)


@dataclass
class Plan:
    """runs: in the order of their first cells; missing: cells whose option is not there, with its name.

    varied: keys that tell the runs from one another; None: those whose values differ.
    """

    runs: list[PlannedRun]
    missing: list[tuple[Cell, str]] = field(default_factory=list)
    absent_data: set[str] = field(default_factory=set)
    varied: set[str] | None = None

    @property
    def cells(self) -> int:
        return sum(len(run.cells) for run in self.runs) + len(self.missing)

    @property
    def name(self) -> str:
        """Of a sweep without a name: what it varies; the same for the same cells."""
        cells = [cell for run in self.runs for cell in run.cells]
        digest = hashlib.sha256(repr([cell.words for cell in cells]).encode()).hexdigest()[:6]
        varied = "-".join(key.replace(".", "_") for key in swept_keys(cells))
        return f"{varied[:MOST_OF_A_NAME]}-{digest}".lstrip("-")

    @property
    def title(self) -> str:
        """What a sweep without a name is, for the eyes: ``image_folder: method x seed``."""
        keys = swept_keys([cell for run in self.runs for cell in run.cells])
        datasets = sorted({run.config.dataset.name for run in self.runs})
        return f"{', '.join(datasets)}: {' x '.join(keys)}"[:MOST_OF_A_NAME].rstrip(" :")

    @property
    def merged(self) -> list[PlannedRun]:
        return [run for run in self.runs if len(run.cells) > 1]

    def label(self, run: PlannedRun) -> str:
        """The words that tell a run from the others; of a single run its folder's name."""
        if self.varied is None:
            self.varied = set(swept_keys([run.cells[0] for run in self.runs]))
        words = [f"{key}={value}" for key, value in run.cells[0].settings if key in self.varied]
        return " ".join([*words, *run.cells[0].others]) or run.folder.name

    def counts(self) -> dict[State, int]:
        states = dict.fromkeys(STATES, 0)
        for run in self.runs:
            states[run.state] += 1
        return states

    def keep_shown_settings(self) -> None:
        """For the runs that are done already: the heads and shot groups that the cells name."""
        for run in self.runs:
            if run.state == "done":
                with contextlib.suppress(RecordError, FileNotFoundError):  # told by ``unreadable``
                    keep_shown_settings(run.config, run.record)

    def unreadable(self) -> list[str]:
        """Of each run that is done and has no numbers to show, which it is and why."""
        problems = []
        for run in self.runs:
            if run.state == "done":
                try:
                    _ = run.record.result
                except RecordError as error:
                    problems.append(f"{self.label(run)}: {error}")
        return problems


def make_plan(tree: Tree, cells: Sequence[Cell], *, fetch: bool = True) -> Plan:
    """The runs that the cells make. fetch: download data that is not here.

    Raises:
        UserError: with every fault of all cells.
    """
    composer, feasibility = Composer(tree), Feasibility()
    plan = Plan([])
    faults: list[Fault] = []
    configs: list[tuple[Cell, Config]] = []
    for cell in cells:
        words, unread = parsed(tree, cell.words)
        if absent := composer.absent_option(words):
            plan.missing.append((cell, absent))
            continue
        checked = composer.checked(words)
        faults += unread + checked.faults + feasibility.faults(checked)
        if not faults:
            configs.append((cell, checked.config))
    if faults:
        raise UserError(*faults)
    hashes = _hashes([config for _, config in configs], fetch, plan.absent_data)
    runs: dict[str, PlannedRun] = {}
    for cell, config in configs:
        who = identity(config, hashes[data_key(config)])
        name = fingerprint(who)
        if name in runs:
            runs[name].cells.append(cell)
        else:
            runs[name] = PlannedRun([cell], config, who, name, run_folder(config, name))
    plan.runs = list(runs.values())
    return plan


def _hashes(configs: list[Config], fetch: bool, absent: set[str]) -> dict[str, str]:
    """Of each data set, by ``data_key``; data that is not here and is not fetched has one made up."""
    known: dict[str, str] = {}
    here = []
    for key, config in {data_key(config): config for config in configs}.items():
        if not fetch and inspect(config.dataset, config.data_dir, download=False):
            absent.add(config.dataset.name)
            known[key] = hashlib.sha256(key.encode()).hexdigest()
        else:
            here.append(config)
    faults: list[Fault] = []
    for key, answer in split_hashes(here).items():
        if isinstance(answer, str):
            known[key] = answer
        else:
            faults += answer
    if faults:
        raise UserError(*faults)
    return known


# --- what is said of a sweep as a whole ------------------------------------------------------


@dataclass(frozen=True)
class Settings:
    """How many runs at once, what after a failure.

    config_name: of the primary configuration, such as a file of sweeps/; config_dir: of ``--config-dir``.
    """

    config_name: str
    config_dir: str | None
    sweep: SweepConfig
    plan: bool

    @property
    def tree(self) -> list[str]:
        """Words that choose the same configuration tree for a run of its own."""
        named = [] if self.config_name == "config" else ["--config-name", self.config_name]
        return named + (["--config-dir", self.config_dir] if self.config_dir else [])

    def to_do(self, plan: Plan) -> list[PlannedRun]:
        """What this start is to run; what starts from another run's finished stage comes after it."""
        runs = [run for run in plan.runs if self.is_to_do(run)]
        return sorted(runs, key=lambda run: run.config.method.starts_from is not None)

    def is_to_do(self, run: PlannedRun) -> bool:
        state = run.state
        if state == "failed":
            return self.sweep.retry_failed
        return state != "done" or run.config.rerun


def settings_of(config: DictConfig) -> Settings:
    """From what Hydra composed for all runs; the values that vary stand in it as text, but these do not vary."""
    sweep: Any = OmegaConf.to_container(config.sweep, resolve=True)
    added = [source.path for source in config.hydra.runtime.config_sources if source.provider == "command-line"]
    return Settings(
        config.hydra.job.config_name, added[0] if added else None, build_block(SweepConfig, sweep), config.plan
    )
