"""``hydra/sweeper=cells``: every ``-m`` and every file of sweeps/, from plan to summary."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.sweeper import Sweeper
from omegaconf import OmegaConf
from rich.console import Console

from csa.cli import reporting_faults
from csa.config.composition import Tree
from csa.sweep.cells import apply, expand
from csa.sweep.display import Display
from csa.sweep.launcher import LocalLauncher
from csa.sweep.machine import slots
from csa.sweep.plan import Plan, Run, make_plan
from csa.sweep.processes import Ending, reason
from csa.sweep.settings import Settings, settings_of
from csa.sweep.show_plan import print_plan
from csa.sweep.summary import print_summary
from csa.sweep.task import CellTask
from csa.sweep.tracking import Tracking, sweep_name
from csa.training.interruption import CTRL_C_STATUS, REQUEUE_STATUS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from hydra.types import HydraContext, TaskFunction
    from omegaconf import DictConfig

FAILED_STATUS = 1
IN_PROCESS = "basic"


class CellsSweeper(Sweeper):
    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config, self.hydra_context = config, hydra_context
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=CellTask(task_function), config=config
        )
        self._console = Console()

    def sweep(self, arguments: list[str]) -> None:
        """Plan, run what is missing, summarise.

        Raises:
            SystemExit: 2 for mistakes of the user, 1 if a run failed, 130 or 75 if a signal stopped it.
        """
        with reporting_faults():
            assert self.config is not None
            assert self.hydra_context is not None
            settings = settings_of(self.config)
            tree = Tree(settings.config_name, self.hydra_context.config_loader)
            grids: Any = OmegaConf.to_container(self.config.cells)
            cells = apply(expand(grids), [tree.parse(word) for word in arguments])
            plan = make_plan(tree, cells, fetch=not settings.plan)
            if settings.plan:
                print_plan(self._console, plan, settings)
                return
            self._run(plan, settings)

    def _run(self, plan: Plan, settings: Settings) -> None:
        to_do = [run for run in plan.runs if _is_to_do(run, settings)]
        # What starts from another run's finished stage comes after it.
        to_do.sort(key=lambda run: run.config.method.starts_from is not None)
        left = len(plan.runs) - len(to_do)
        self._console.print(
            f"{plan.cells} cells, {len(plan.runs)} runs: {len(to_do)} to do, {left} not", highlight=False
        )
        endings: dict[str, Ending] = {}
        status, trouble = 0, None
        if plan.runs:
            with Tracking(settings.sweep.name or sweep_name(plan), plan.runs[0].config) as tracking:
                tracking.add(plan.runs)
                status = self._run_all(plan, to_do, settings, endings)
                failed = any(ending.how == "failed" for ending in endings.values())
                tracking.end("KILLED" if status else "FAILED" if failed else "FINISHED", plan.counts())
            trouble = tracking.trouble
        failures = print_summary(self._console, plan, endings)
        if trouble:
            self._console.print(trouble, highlight=False, soft_wrap=True)
        if status:
            self._console.print("stopped; the same command continues", highlight=False)
        if status or failures:
            raise SystemExit(status or FAILED_STATUS)

    def _run_all(self, plan: Plan, to_do: list[Run], settings: Settings, endings: dict[str, Ending]) -> int:
        """Fill in how the runs ended; the exit status, not 0 where a signal stopped the sweep."""
        assert self.config is not None
        in_process = self.config.hydra.runtime.choices["hydra/launcher"] == IN_PROCESS
        try:
            with Display(self._console, plan, to_do, quiet=in_process):
                for batch in self._batches(to_do, settings):
                    endings |= self._launch(settings, batch)
                    if settings.sweep.on_error == "stop" and any(one.how == "failed" for one in endings.values()):
                        break
        except KeyboardInterrupt:
            return CTRL_C_STATUS
        except SystemExit as stopped:
            if stopped.code not in (CTRL_C_STATUS, REQUEUE_STATUS):
                raise
            return int(stopped.code)
        return 0

    def _batches(self, runs: Sequence[Run], settings: Settings) -> Iterator[Sequence[Run]]:
        """All at once; a launcher that cannot be stopped by a failure gets as many as there are slots."""
        size = len(runs)
        if runs and settings.sweep.on_error == "stop" and not isinstance(self.launcher, LocalLauncher):
            size = len(slots(settings.sweep, runs[0].config.runtime))
        for start in range(0, len(runs), size or 1):
            yield runs[start : start + size]

    def _launch(self, settings: Settings, runs: Sequence[Run]) -> dict[str, Ending]:
        if isinstance(self.launcher, LocalLauncher):
            return self.launcher.launch_runs(settings, runs)
        assert self.launcher is not None
        runs = [run for run in runs if run.state != "running"]
        words = [[*run.words, "tracking.mlflow=false", *_seen_from_elsewhere(run)] for run in runs]
        returns = self.launcher.launch(words, initial_job_idx=0)
        return {run.fingerprint: _ending(run, one) for run, one in zip(runs, returns, strict=True)}


def _is_to_do(run: Run, settings: Settings) -> bool:
    state = run.state
    if state == "failed":
        return settings.sweep.retry_failed
    return state != "done" or run.config.rerun


def _seen_from_elsewhere(run: Run) -> list[str]:
    """A job of a cluster starts in a folder of its own."""
    folders = {"output_root": run.config.output_root, "data_dir": run.config.data_dir}
    return [f"{key}='{Path(folder).expanduser().absolute()}'" for key, folder in folders.items()]


def _ending(run: Run, returned: JobReturn) -> Ending:
    if returned.status is JobStatus.COMPLETED:
        return Ending("done")
    told: Any = returned._return_value
    return Ending("failed", reason(run.folder) if run.state == "failed" else str(told))
