"""``hydra/sweeper=cells``: every ``-m`` and every file of sweeps/, from plan to summary."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.sweeper import Sweeper
from omegaconf import OmegaConf

from csa.cli import CTRL_C_STATUS, FAILED_STATUS, REQUEUE_STATUS, reporting_faults
from csa.config.cells import apply, expand
from csa.config.composition import Tree
from csa.config.faults import UserError
from csa.config.words import parsed
from csa.console import PlainConsole
from csa.sweep.display import Display
from csa.sweep.launcher import CellTask, LocalLauncher
from csa.sweep.plan import Plan, PlannedRun, Settings, make_plan, settings_of
from csa.sweep.processes import Ending, SweepStopped, handling, is_held_here, reason
from csa.sweep.slots import slots
from csa.sweep.summary import counted, has_failed, means, print_plan, print_summary
from csa.tracking.watcher import SweepTracking

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from hydra.types import HydraContext, TaskFunction
    from omegaconf import DictConfig

IN_PROCESS = "basic"
LOOK_SECONDS = 1.0
LOG_WIDTH = 140  # columns where nobody says how many there are: in a file, in a pipe


class CellsSweeper(Sweeper):
    def __init__(self, params: Mapping[str, Any] | None = None) -> None:
        """params: what a configuration varies by itself (``hydra.sweeper.params``), as words under the command's."""
        self._params = params

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config, self.hydra_context = config, hydra_context
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=CellTask(task_function), config=config
        )
        told = sys.stdout.isatty() or "COLUMNS" in os.environ
        self._console = PlainConsole(width=None if told else LOG_WIDTH)

    def sweep(self, arguments: list[str]) -> None:
        """Plan, run what is missing, summarise.

        Raises:
            SystemExit: 2 for mistakes of the user, 1 if a run failed, 130 or 75 if a signal stopped it.
        """
        with reporting_faults():
            assert self.config is not None
            settings = settings_of(self.config)
            tree = Tree(settings.config_name, settings.config_dir)
            grids: Any = OmegaConf.to_container(self.config.cells)
            named = {word.partition("=")[0] for word in arguments}
            varied = [f"{key}={value}" for key, value in (self._params or {}).items() if key not in named]
            words, faults = parsed(tree, (*varied, *arguments))
            if faults:
                raise UserError(*faults)
            cells = apply(expand(grids), words)
            plan = make_plan(tree, cells, fetch=not settings.plan)
            if settings.plan:
                print_plan(self._console, plan, settings)
                return
            self._run(plan, settings)

    def _run(self, plan: Plan, settings: Settings) -> None:
        plan.keep_shown_settings()
        to_do = settings.to_do(plan)
        self._console.print(f"{counted(plan)}; {len(to_do)} to do")
        endings: dict[str, Ending] = {}
        status, trouble = 0, None
        if plan.runs:
            name = settings.sweep.name
            with SweepTracking(name or plan.name, name or plan.title, plan.runs[0].config) as tracking:
                tracking.add([run.folder for run in plan.runs])
                status = self._run_all(plan, to_do, settings, endings)
                failed = any(has_failed(run, endings) for run in plan.runs)
                tracking.end("interrupted" if status else "failed" if failed else "done", plan.counts(), means(plan))
            trouble = tracking.trouble
        failures = print_summary(self._console, plan, endings)
        if trouble:
            self._console.print(trouble)
        if status:
            self._console.print("stopped; the same command continues")
        if status or failures:
            raise SystemExit(status or FAILED_STATUS)

    def _run_all(self, plan: Plan, to_do: list[PlannedRun], settings: Settings, endings: dict[str, Ending]) -> int:
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
        except SweepStopped as stopped:
            endings |= stopped.endings
            return int(str(stopped.code))
        except SystemExit as stopped:
            if stopped.code not in (CTRL_C_STATUS, REQUEUE_STATUS):
                raise
            return int(stopped.code)
        return 0

    def _batches(self, runs: Sequence[PlannedRun], settings: Settings) -> Iterator[Sequence[PlannedRun]]:
        """All at once; a launcher that cannot be stopped by a failure gets as many as there are slots."""
        size = len(runs)
        if runs and settings.sweep.on_error == "stop" and not isinstance(self.launcher, LocalLauncher):
            size = len(slots(settings.sweep, [run.config for run in runs]))
        for start in range(0, len(runs), size or 1):
            yield runs[start : start + size]

    def _launch(self, settings: Settings, runs: Sequence[PlannedRun]) -> dict[str, Ending]:
        if isinstance(self.launcher, LocalLauncher):
            return self.launcher.launch_runs(settings, runs)
        assert self.launcher is not None
        runs = [run for run in runs if not is_held_here(run.folder)]
        if not runs:
            return {}
        words = [[*run.words, *run.config.tracking.of_a_sweep(), *_seen_from_elsewhere(run)] for run in runs]
        try:
            with handling([signal.SIGTERM], _stop):
                returns = self.launcher.launch(words, initial_job_idx=0)
        except Exception as error:  # of the launcher: a job that was killed has no result
            return _endings_by_record(runs, error)
        return {run.fingerprint: _ending(run, one) for run, one in zip(runs, returns, strict=True)}


def _stop(*_: object) -> NoReturn:
    """SIGTERM ends a launcher of Hydra's as Ctrl-C does, so that the sweep still says how it stands."""
    raise SystemExit(REQUEUE_STATUS)


def _seen_from_elsewhere(run: PlannedRun) -> list[str]:
    """A job of a cluster starts in a folder of its own."""
    folders = {"output_root": run.config.output_root, "data_dir": run.config.data_dir}
    return [f"{key}='{Path(folder).expanduser().absolute()}'" for key, folder in folders.items()]


def _ending(run: PlannedRun, returned: JobReturn) -> Ending:
    if returned.status is JobStatus.COMPLETED:
        return Ending("done")
    told: Any = returned._return_value
    if run.state == "running":
        return Ending("interrupted", str(told))  # another process trains it
    return Ending("failed", reason(run.folder) if run.state == "failed" else str(told))


def _endings_by_record(runs: Sequence[PlannedRun], error: Exception) -> dict[str, Ending]:
    """How runs ended whose launcher gave up at one of them, once those that go on have ended."""
    while any(is_held_here(run.folder) for run in runs):
        time.sleep(LOOK_SECONDS)
    lost = f"{type(error).__name__}: {error}\nits job did not say how it ended; the next start continues it"
    return {
        run.fingerprint: Ending("done") if run.state == "done"
        else Ending("failed", reason(run.folder) if run.state == "failed" else lost)
        for run in runs
    }  # fmt: skip
