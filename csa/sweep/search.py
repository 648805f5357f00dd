"""A search with Optuna, continued to its budget of trials however often it is started.

Hydra's sweeper runs ``n_trials`` more at each start, leaves trials of a killed process RUNNING, and
draws the first points of its seed again. So before it starts: what is finished is counted, what was
left is put back in line, and the sampler goes on with another seed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from csa.config.faults import Fault, UserError
from csa.config.preflight import preflight
from csa.config.schema import RuntimeConfig, SweepConfig
from csa.config.typed import build_block
from csa.sweep.machine import slots
from csa.tracking.store import sqlite_file, try_lock

if TYPE_CHECKING:
    from typing import IO

    from optuna import Study

    from csa.config.composition import Composed


@dataclass
class Search:
    """words: for Hydra's sweeper; left: trials of the budget that are still to be run."""

    words: list[str]
    storage: str
    name: str
    left: int
    lock: IO[str] | None

    @property
    def is_over(self) -> bool:
        return self.left <= 0

    def tell(self) -> None:
        """Print what the study has found so far."""
        from optuna.trial import TrialState

        study = _study(self.storage, self.name)
        if study is None:
            return
        states = [trial.state for trial in study.trials]
        done, failed = states.count(TrialState.COMPLETE), states.count(TrialState.FAIL)
        console = Console(highlight=False, soft_wrap=True)
        console.print(f"study {self.name} in {self.storage}: {done} trials done, {failed} failed")
        if done:
            found = " ".join(f"{key}={value}" for key, value in study.best_params.items())
            console.print(f"best on the validation images: {study.best_value:.2f} % with {found}")


def prepare(first: Composed) -> Search:
    """Look at the study and put it in order.

    Raises:
        UserError: there are no validation images, a value of the search is not allowed, the study
            has no place to be continued from, or another process is at it.
    """
    sweeper = first.sweeper
    faults = _faults(first)
    if faults:
        raise UserError(*faults)
    storage, name = str(sweeper["storage"]), str(sweeper["study_name"])
    lock = _lock(storage, name)
    study = _study(storage, name)
    made = _put_in_order(study) if study is not None else 0
    left = int(sweeper["n_trials"]) - made
    places = slots(_block(SweepConfig, first.config.sweep), _block(RuntimeConfig, first.config.runtime))
    words = [f"hydra.sweeper.n_trials={max(left, 0)}", f"hydra.sweeper.n_jobs={len(places)}"]
    seed = (sweeper.get("sampler") or {}).get("seed")
    if seed is not None and made:
        words.append(f"hydra.sweeper.sampler.seed={int(seed) + made}")
    return Search(words, storage, name, left, lock)


def _faults(first: Composed) -> list[Fault]:
    sweeper = first.sweeper
    faults = []
    if first.config.dataset.holdout == 0:
        problem = "leaves a search without validation images, and the test set must not choose"
        faults.append(Fault("dataset.holdout", 0, problem, "an integer, at least 1"))
    faults += [
        Fault(f"hydra.sweeper.{key}", "null", "is needed to continue a search", "as in -cn search_csa")
        for key in ("storage", "study_name")
        if not sweeper[key]
    ]
    params = [f"{key}={value}" for key, value in (sweeper["params"] or {}).items()]
    try:
        preflight(params, multirun=True)
    except UserError as error:
        faults += error.faults
    return faults


def _block(schema: type, values: Any) -> Any:
    from omegaconf import OmegaConf

    plain: Any = OmegaConf.to_container(values, resolve=True)
    return build_block(schema, plain)


def _lock(storage: str, name: str) -> IO[str] | None:
    """Held by this process; of a database of another kind the study is trusted to be ours."""
    database = sqlite_file(storage)
    if database is None:
        return None
    database.parent.mkdir(parents=True, exist_ok=True)
    lock = try_lock(Path(f"{database}.{name}.lock"))
    if lock is None:
        raise UserError(Fault("hydra.sweeper.study_name", name, "is being searched by another process"))
    return lock


def _study(storage: str, name: str) -> Study | None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        return optuna.load_study(study_name=name, storage=storage)
    except KeyError:
        return None


def _put_in_order(study: Study) -> int:
    """Trials that a killed process left go back in line with their values; the number of trials that are finished."""
    from optuna.trial import TrialState

    finished = 0
    for trial in study.trials:
        if trial.state is TrialState.RUNNING:
            study._storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)
        finished += trial.state.is_finished()
    return finished
