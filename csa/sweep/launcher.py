"""``hydra/launcher=local``: every run a process of its own, ``sweep.slots`` at once."""

from __future__ import annotations

import atexit
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from rich.console import Console

from csa.config.composition import Tree
from csa.summary import objective
from csa.sweep.cells import Cell, of_the_sweep
from csa.sweep.display import Display
from csa.sweep.machine import slots
from csa.sweep.plan import Plan, Run, make_plan
from csa.sweep.processes import Ending, Processes
from csa.sweep.settings import Settings, settings_of
from csa.sweep.tracking import Tracking, sweep_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hydra.types import HydraContext, TaskFunction
    from omegaconf import DictConfig


class RunFailedError(Exception):
    """A run of the sweep failed."""


class LocalLauncher(Launcher):
    """Starts ``python -m csa.run``; what it is given as a task function is not called here."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._config, self._loader = config, hydra_context.config_loader
        self._tracking: Tracking | None = None

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Each job's return value is its objective; raises SweepStopped, a SystemExit, on a signal.

        This is how a search of Optuna's starts its trials; our own sweeper has runs already (``launch_runs``).
        """
        cells = [Cell((), others=tuple(word for word in words if _of_the_run(word))) for words in job_overrides]
        settings = settings_of(self._config)
        plan = make_plan(Tree(settings.config_name, self._loader), cells)
        tracking = self._track(settings, plan)
        with Display(Console(), plan, plan.runs, quiet=False):
            endings = self.launch_runs(settings, plan.runs)
        tracking.end("FINISHED", {})
        run_of = {cell.words: run for run in plan.runs for cell in run.cells}
        return [_job_return(run_of[cell.words], endings) for cell in cells]

    def _track(self, settings: Settings, plan: Plan) -> Tracking:
        """One parent run for all batches of a search, until this process ends."""
        if self._tracking is None:
            self._tracking = Tracking(settings.sweep.name or sweep_name(plan), plan.runs[0].config)
            atexit.register(self._tracking.__exit__)
            self._tracking.__enter__()
        self._tracking.add(plan.runs)
        return self._tracking

    def launch_runs(self, settings: Settings, runs: Sequence[Run]) -> dict[str, Ending]:
        """Run what is not done; how each ended, by its fingerprint."""
        if not runs:
            return {}
        name = settings.config_name
        processes = Processes(
            slots(settings.sweep, runs[0].config.runtime),
            [] if name == "config" else ["--config-name", name],
            stop_on_error=settings.sweep.on_error == "stop",
        )
        return processes.run(runs)


def _of_the_run(word: str) -> bool:
    key = word.partition("=")[0].lstrip("+~")
    return not of_the_sweep(key) and not key.startswith("hydra")


def _job_return(run: Run, endings: dict[str, Ending]) -> JobReturn:
    returned: Any = JobReturn(overrides=list(run.words), status=JobStatus.COMPLETED)
    ending = endings.get(run.fingerprint, Ending("failed", "was not started"))
    if ending.how == "done":
        returned.return_value = objective(run.record.result())
    else:
        returned.status = JobStatus.FAILED
        returned.return_value = RunFailedError(ending.reason)
    return returned  # type: ignore[no-any-return]
