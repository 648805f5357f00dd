"""A search with Optuna, continued to its budget of trials however often it is started.

Hydra's sweeper runs ``n_trials`` more at each start, leaves trials of a killed process RUNNING, and
draws the first points of its seed again. So before it starts: what is finished is counted, what was
left is put back in line, and the sampler goes on with another seed.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

from hydra_plugins.hydra_optuna_sweeper.optuna_sweeper import OptunaSweeper
from optuna import load_study, logging
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from csa.cli import FAILED_STATUS, reporting_faults, say
from csa.config.cells import Cell, is_of_sweep, quoted
from csa.config.faults import Fault, UserError, first_line
from csa.config.identity import canonical, fingerprint, identity, run_folder
from csa.config.rules import HOW_TO_VALIDATE
from csa.console import PLUS_MINUS, FoldedTable, PlainConsole, duration
from csa.data.dataset import has_validation, preview, validation_images
from csa.sweep.estimate import estimate
from csa.sweep.plan import PlannedRun
from csa.sweep.processes import in_words, slots_of
from csa.tracking.files import try_lock
from csa.tracking.mlflow.store import sqlite_file

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import IO, Any

    from optuna import Study

    from csa.config.schema import Config
    from csa.request import Request
    from csa.sweep.processes import Slot

SMOKE_TRIALS, MOST_TRIALS, MOST_SHOWN = 3, 100_000, 20
SEARCH = "search"
"""The file of sweeps/ that adds nothing to a run but that it is searched."""
DIRECTIONS = ("maximize", "minimize")
SEEDS = 2**32  # of the samplers
SWEEPER = "csa.sweep.search.SearchSweeper"


@dataclass
class Search:
    """budget: trials in all; left: those still to be run; images: on which they are compared, if known.

    run: the command that makes a run of what is the same in all trials; lock: held by this process; words: for Hydra's
    sweeper; plan_only: ``plan=true``; time: then, how long it will take.
    """

    storage: str
    name: str
    budget: int
    left: int
    images: int | None
    run: tuple[str, ...]
    lock: IO[str] | None
    words: tuple[str, ...] = ()
    plan_only: bool = False
    time: str = ""

    @property
    def is_over(self) -> bool:
        return self.left <= 0 or self.plan_only

    def show(self) -> None:
        """Print what the study has found so far."""
        console = PlainConsole()
        study = _study(self.storage, self.name)
        states = [trial.state for trial in study.trials] if study is not None else []
        done, failed = states.count(TrialState.COMPLETE), states.count(TrialState.FAIL)
        left = max(0, self.budget - done - failed)
        console.print(f"study {self.name} in {self.storage}: {done} trials done, {failed} failed, {left} to do")
        if self.time and left:
            console.print(self.time)
        if study is not None and done:
            best = study.best_params
            images = None if any(key.startswith("dataset") for key in best) else self.images
            console.print(_table(study, images))
            if images and done > 1:
                console.print(_uncertainty(study, images))
            others = [word for word in self.run if word.partition("=")[0] not in best]
            found = [f"{key}={canonical(value)}" for key, value in best.items()]
            console.print(f"best on the validation images: {study.best_value:.2f} % with {' '.join(found)}")
            console.print(f"its run again: {shlex.join([*others, *found])}")


def _table(study: Study, images: int | None) -> FoldedTable:
    """The trials with their values, the best first; images: that these were counted on."""
    from optuna.study import StudyDirection

    done = [trial for trial in study.trials if trial.value is not None]
    done.sort(key=lambda trial: trial.value or 0.0, reverse=study.direction is StudyDirection.MAXIMIZE)
    keys = list(dict.fromkeys(key for trial in done for key in trial.params))
    more = f"; {len(done) - MOST_SHOWN} more trials were worse" if len(done) > MOST_SHOWN else ""
    table = FoldedTable(title=f"accuracy on the validation images in %{more}", title_justify="left")
    for heading in ("trial", "all", *keys):
        table.add_column(heading, justify="right")
    for trial in done[:MOST_SHOWN]:
        values = [str(canonical(trial.params.get(key, "-"))) for key in keys]
        half = f" {PLUS_MINUS} {_half_interval(trial.value or 0.0, images):.2f}" if images else ""
        table.add_row(str(trial.number), f"{trial.value:.2f}{half}", *values)
    return table


def _half_interval(accuracy: float, images: int) -> float:
    """Half the width of the 95 % interval (Wilson, 1927) of an accuracy counted on so many images, in points."""
    from scipy.stats import binomtest  # type: ignore[import-untyped]

    bounds = binomtest(round(accuracy * images / 100), images).proportion_ci(method="wilson")
    return 50 * float(bounds.high - bounds.low)


def _uncertainty(study: Study, images: int) -> str:
    """How many trials the validation images do not tell from the best one."""
    values = [trial.value for trial in study.trials if trial.value is not None]
    best = study.best_value
    halves = {value: _half_interval(value, images) for value in values}
    near = sum(abs(best - value) <= halves[best] + halves[value] for value in values) - 1
    text = f"{PLUS_MINUS} is half the 95 % interval of an accuracy on {images:,} validation images"
    return f"{text}; that of {near} of the {len(values) - 1} others overlaps with that of the best trial"


def _command(request: Request) -> tuple[str, ...]:
    """One run of what is the same in all trials: the command without what is of the search."""
    first = request.composed
    of_the_run = [
        word for word in request.words if not (word.startswith("hydra") or is_of_sweep(re.split(r"[.=]", word)[0]))
    ]
    name, sources = first.hydra.job.config_name, first.hydra.runtime.config_sources
    file = [] if name == SEARCH else ["-cn", name, "hydra.mode=RUN"]
    added = [part for one in sources if one.provider == "command-line" for part in ("--config-dir", one.path)]
    return ("python", "-m", "csa.run", *added, *file, *of_the_run)


def prepare(request: Request) -> Search:
    """Look at the study and put it in order; under ``plan=true`` only look.

    Raises:
        UserError: there are no validation images, the study has no place to be continued from, this
            cannot be opened, or another process is at it.
    """
    sweeper = request.composed.sweeper
    faults = _faults(sweeper, request.config)
    if faults:
        raise UserError(*faults)
    run = _one_trial(request.config)
    # Trials of other runs (another data set, another protocol) are not of this study.
    storage, name = _expanded(str(sweeper["storage"])), f"{sweeper['study_name']}-{run.fingerprint[:6]}"
    budget = min(int(sweeper["n_trials"]), SMOKE_TRIALS) if run.config.smoke else int(sweeper["n_trials"])
    lock = None if run.config.plan else _lock(storage, name)
    study = _study(storage, name)
    made = _finished(study) if study is not None else 0
    left = budget - made
    slots = slots_of(run.config.sweep, [run.config] * max(left, 1))
    images = validation_images(run.config.dataset, preview(run.config.dataset, run.config.data_dir))
    search = Search(storage, name, budget, left, images, _command(request), lock)
    if run.config.plan:
        return replace(search, plan_only=True, time=_time(run, left, slots))
    if study is not None:
        _put_in_line(study)
    named = [word.partition("=")[0] for word in request.words]
    added = [
        *(f"{key}={ranges}" for key, ranges in request.composed.searched.items() if key not in named),
        f"hydra.sweeper._target_={SWEEPER}",
        f"hydra.sweeper.study_name={quoted(name)}",
        f"hydra.sweeper.n_trials={max(left, 0)}",
        f"hydra.sweeper.n_jobs={len(slots)}",
    ]
    if storage != sweeper["storage"]:
        added.append(f"hydra.sweeper.storage={quoted(storage)}")
    seed = sweeper["sampler"].get("seed")
    if seed is not None:
        drawn = len(study.trials) if study is not None else 0  # every trial has drawn its point, finished or not
        added.append(f"hydra.sweeper.sampler.seed={(seed + drawn) % SEEDS}")
    return replace(search, words=tuple(added))


def _one_trial(config: Config) -> PlannedRun:
    """The run that the words make without the search's own: what is the same in all trials, and what one costs."""
    who = identity(config, repr(config.dataset))
    return PlannedRun([Cell(())], config, who, fingerprint(who), run_folder(config, fingerprint(who)))


def _time(run: PlannedRun, left: int, slots: Sequence[Slot]) -> str:
    seconds = estimate([run], slots[0].threads, measure=run.config.sweep.calibrate).seconds.get(run.fingerprint)
    if seconds is None:
        return ""
    return f"estimated: {duration(seconds * ceil(left / len(slots)))} ({in_words(slots, [run.config])})"


def _faults(sweeper: dict[str, Any], config: Config) -> list[Fault]:
    faults = []
    if not has_validation(config.dataset, preview(config.dataset, config.data_dir)):
        problem = "leaves a search without validation images, and the test set must not choose"
        faults.append(Fault("dataset.holdout_share", 0, problem, HOW_TO_VALIDATE))
    faults += [
        Fault(f"hydra.sweeper.{key}", "null", "is needed to continue a search", "as in -cn search")
        for key in ("storage", "study_name")
        if not sweeper[key]
    ]
    if sweeper["direction"] not in DIRECTIONS:
        faults.append(Fault("hydra.sweeper.direction", sweeper["direction"], "is none", ", ".join(DIRECTIONS)))
    if not 1 <= sweeper["n_trials"] <= MOST_TRIALS:
        allowed = f"an integer from 1 to {MOST_TRIALS}"
        faults.append(Fault("hydra.sweeper.n_trials", sweeper["n_trials"], "is out of range", allowed))
    if not 0 <= sweeper["max_failure_rate"] <= 1:
        rate = sweeper["max_failure_rate"]
        faults.append(Fault("hydra.sweeper.max_failure_rate", rate, "is out of range", "a number from 0 to 1"))
    return faults


def _expanded(storage: str) -> str:
    """A file below ``~`` by its whole path, as everything else of a run has it."""
    return re.sub(r"^(sqlite:///)(~[^/]*)", lambda found: found[1] + str(Path(found[2]).expanduser()), storage)


def _lock(storage: str, name: str) -> IO[str] | None:
    """Held by this process; of a database of another kind the study is trusted to be ours."""
    database = sqlite_file(storage)
    if database is None:
        return None
    try:
        database.parent.mkdir(parents=True, exist_ok=True)
        lock = try_lock(Path(f"{database}.{name}.lock"))
    except OSError as error:
        raise UserError(_unopened(storage, str(error.strerror))) from error
    if lock is None:
        raise UserError(Fault("hydra.sweeper.study_name", name, "is being searched by another process"))
    return lock


def _study(storage: str, name: str) -> Study | None:
    database = sqlite_file(storage)
    if database is not None and not database.exists():
        return None
    logging.set_verbosity(logging.WARNING)
    try:
        return load_study(study_name=name, storage=storage)
    except KeyError:
        return None
    except Exception as error:  # databases and their drivers raise what they happen to
        raise UserError(_unopened(storage, _storage_trouble(error))) from error


def _unopened(storage: str, reason: str) -> Fault:
    return Fault("hydra.sweeper.storage", storage, f"cannot be opened ({reason})")


def _storage_trouble(error: Exception) -> str:
    """What the database says, without the statement that it says it of."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    return first_line(getattr(cause, "orig", None) or cause or error)


def _finished(study: Study) -> int:
    return sum(trial.state.is_finished() for trial in study.trials)


def _put_in_line(study: Study) -> None:
    """Trials that a killed process left go back in line with their values."""
    for trial in study.trials:
        if trial.state is TrialState.RUNNING:
            study._storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)


class SearchSweeper(OptunaSweeper):
    """Hydra's sweeper of Optuna, but for its end: it asks for the best trial even where every trial has failed."""

    def sweep(self, arguments: list[str]) -> None:
        """Raises SystemExit(1) where there is no trial to be the best, or where the study cannot be written."""
        try:
            with reporting_faults():
                super().sweep(arguments)
        except (SQLAlchemyError, StorageInternalError) as error:
            say(f"csa: the study cannot be written: {_storage_trouble(error)}", aside=True)
            raise SystemExit(FAILED_STATUS) from None
        except ValueError:
            search = self.sweeper
            assert search.storage is not None
            study = load_study(study_name=search.study_name, storage=search.storage)
            if study.get_trials(deepcopy=False, states=[TrialState.COMPLETE]):
                raise
            raise SystemExit(FAILED_STATUS) from None
