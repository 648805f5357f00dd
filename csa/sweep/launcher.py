"""``hydra/launcher=local``: every run a process of its own, ``sweep.slots`` at once; and a run as Hydra's own launchers
call it: in this process, in a job of a cluster, in a worker of Ray.
"""

from __future__ import annotations

import atexit
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import OmegaConf

from csa.cli import FAILED_STATUS, HELD_STATUS, REQUEUE_STATUS
from csa.config.cells import Cell, is_of_sweep
from csa.config.composition import Tree
from csa.config.faults import RecordError
from csa.console import PlainConsole
from csa.summary import objective
from csa.sweep.display import Display
from csa.sweep.plan import Plan, PlannedRun, Settings, make_plan, settings_of
from csa.sweep.processes import Ending, Processes, reason
from csa.sweep.slots import slots
from csa.sweep.summary import print_failures
from csa.tracking.watcher import SweepTracking

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import FrameType

    from hydra.types import HydraContext, TaskFunction
    from omegaconf import DictConfig


REASONS = {FAILED_STATUS: "the run failed", HELD_STATUS: "another process is training it"}


class RunFailedError(Exception):
    """A run of a sweep failed; its record says why."""


class LocalLauncher(Launcher):
    """Starts ``python -m csa.run``; what it is given as a task function is not called here."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._config, self._loader = config, hydra_context.config_loader
        self._tracking: SweepTracking | None = None

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Each job's return value is its objective; raises SweepStopped, a SystemExit, on a signal.

        This is how a search of Optuna's starts its trials; our own sweeper has runs already (``launch_runs``).
        """
        settings = settings_of(self._config)
        cells = [_cell(words) for words in job_overrides]
        plan = make_plan(Tree(settings.config_name, self._loader), cells)
        plan.varied = set(OmegaConf.select(self._config, "hydra.sweeper.params") or ()) or None
        plan.keep_shown_settings()
        to_do = settings.to_do(plan)
        tracking = self._track(settings, plan)
        tracking.end("interrupted", {})  # until it is known better
        Path(self._config.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)  # as every launcher does
        console = PlainConsole()
        with Display(console, plan, to_do, quiet=False):
            endings = self.launch_runs(settings, to_do)
        tracking.end("done", {})
        print_failures(console, plan, endings)
        run_of = {cell.words: run for run in plan.runs for cell in run.cells}
        return [_job_return(run_of[cell.words], endings) for cell in cells]

    def _track(self, settings: Settings, plan: Plan) -> SweepTracking:
        """One parent run for all batches of a search, until this process ends."""
        if self._tracking is None:
            name = settings.sweep.name
            self._tracking = SweepTracking(name or plan.name, name or plan.title, plan.runs[0].config)
            atexit.register(self._tracking.__exit__)
            self._tracking.__enter__()
        self._tracking.add([run.folder for run in plan.runs])
        return self._tracking

    def launch_runs(self, settings: Settings, runs: Sequence[PlannedRun]) -> dict[str, Ending]:
        """Run what is not done; how each ended, by its fingerprint."""
        if not runs:
            return {}
        places = slots(settings.sweep, [run.config for run in runs])
        return Processes(places, settings.tree, stop_on_error=settings.sweep.on_error == "stop").run(runs)


def _cell(words: Sequence[str]) -> Cell:
    settings, others = [], []
    for word in words:
        key, equals, value = word.partition("=")
        name = key.lstrip("+~")
        if is_of_sweep(name) or name.startswith("hydra"):
            continue
        if equals and key == name:
            settings.append((key, value))
        else:
            others.append(word)
    return Cell(tuple(settings), others=tuple(others))


def _job_return(run: PlannedRun, endings: dict[str, Ending]) -> JobReturn:
    returned: Any = JobReturn(overrides=list(run.words), status=JobStatus.COMPLETED)
    if run.state == "done":
        try:
            returned.return_value = objective(run.record.result)
        except RecordError as error:
            returned.status, returned.return_value = JobStatus.FAILED, RunFailedError(str(error))
    else:
        returned.status = JobStatus.FAILED
        ending = endings.get(run.fingerprint)
        returned.return_value = RunFailedError(reason(run.folder) if ending is None else ending.reason)
    return returned  # type: ignore[no-any-return]


# --- under launchers of Hydra's -------------------------------------------------------------


class CellTask:
    """Calls ``task``; a run's exit status becomes an exception, which ends that run and no other.

    In a job of submitit the warning before time-out or pre-emption (SIGUSR2), and a SIGTERM, make
    the run save; then submitit's own handler queues the job again, and it continues.
    """

    def __init__(self, task: Callable[[DictConfig], Any]) -> None:
        self.task = task

    def __call__(self, config: DictConfig) -> Any:
        if "SUBMITIT_EXECUTOR" in os.environ:
            return self._in_submitit(config)
        return self._call(config)

    def _in_submitit(self, config: DictConfig) -> Any:
        queue_again = signal.signal(signal.SIGUSR2, _save)
        try:
            return self._call(config)
        except SystemExit as stopped:
            if stopped.code != REQUEUE_STATUS:
                raise
            signal.signal(signal.SIGUSR2, queue_again)
            os.kill(os.getpid(), signal.SIGUSR2)  # does not come back: it leaves with submitit's status
            raise
        finally:
            signal.signal(signal.SIGUSR2, queue_again)

    def _call(self, config: DictConfig) -> Any:
        try:
            return self.task(config)
        except SystemExit as stopped:
            if stopped.code in REASONS:
                raise RunFailedError(REASONS[stopped.code]) from None
            raise


def _save(_number: int, _frame: FrameType | None) -> None:
    """As if asked by SIGTERM: training saves and leaves with the status that asks to be queued again."""
    os.kill(os.getpid(), signal.SIGTERM)
