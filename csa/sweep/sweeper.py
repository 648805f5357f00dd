"""How Hydra comes to our sweeps: ``hydra/sweeper=cells``, which is every ``-m`` and every file of sweeps/, from plan to
summary; ``hydra/launcher=local``, every run a process of its own; and a run as Hydra's own launchers call it.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from omegaconf import OmegaConf

from csa.cli import CTRL_C_STATUS, FAILED_STATUS, HELD_STATUS, REQUEUE_STATUS, handling, reporting_faults
from csa.config.cells import Cell, apply, expand, is_of_sweep
from csa.config.composition import Tree
from csa.config.faults import RecordError, UserError
from csa.config.words import parsed
from csa.console import PlainConsole
from csa.summary import objective
from csa.sweep.display import Display
from csa.sweep.plan import Plan, PlannedRun, Settings, make_plan, settings_of
from csa.sweep.processes import Ending, Processes, SweepStopped, is_held_here, reason, slots_of
from csa.sweep.summary import counted, has_failed, means, print_failures, print_plan, print_summary
from csa.tracking.watcher import SweepTracking

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import FrameType

    from hydra.types import HydraContext, TaskFunction
    from omegaconf import DictConfig

IN_PROCESS = "basic"
LOOK_SECONDS = 1.0
LOG_WIDTH = 140  # columns where nobody says how many there are: in a file, in a pipe
REASONS = {FAILED_STATUS: "the run failed", HELD_STATUS: "another process is training it"}


class CellsSweeper(Sweeper):
    def __init__(self, params: Mapping[str, Any] | None = None) -> None:
        """params: what a configuration varies by itself (``hydra.sweeper.params``), as words under the command's."""
        self._params = params

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config, self.hydra_context = config, hydra_context
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=CellTask(task_function), config=config
        )
        has_width = sys.stdout.isatty() or "COLUMNS" in os.environ
        self._console = PlainConsole(width=None if has_width else LOG_WIDTH)

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
            with _tracking(settings, plan) as tracking:
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
            size = len(slots_of(settings.sweep, [run.config for run in runs]))
        for start in range(0, len(runs), size or 1):
            yield runs[start : start + size]

    def _launch(self, settings: Settings, runs: Sequence[PlannedRun]) -> dict[str, Ending]:
        if isinstance(self.launcher, LocalLauncher):
            return _in_processes(settings, runs)
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


def _tracking(settings: Settings, plan: Plan) -> SweepTracking:
    name = settings.sweep.name
    return SweepTracking(name or plan.name, name or plan.title, plan.runs[0].config)


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
    error: Any = returned._return_value
    if run.state == "running":
        return Ending("interrupted", str(error))  # another process trains it
    return Ending("failed", reason(run.folder) if run.state == "failed" else str(error))


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


# --- runs as processes of this machine ------------------------------------------------------


class RunFailedError(Exception):
    """A run of a sweep failed; its record says why."""


class LocalLauncher(Launcher):
    """Starts ``python -m csa.run``; what it is given as a task function is not called here."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._config = config
        self._tracking: SweepTracking | None = None

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Each job's return value is its objective; raises SweepStopped, a SystemExit, on a signal.

        This is how a search of Optuna's starts its trials; our own sweeper has runs already.
        """
        settings = settings_of(self._config)
        cells = [_cell(words) for words in job_overrides]
        plan = make_plan(Tree(settings.config_name, settings.config_dir), cells)
        plan.varied = set(OmegaConf.select(self._config, "hydra.sweeper.params") or ()) or None
        plan.keep_shown_settings()
        to_do = settings.to_do(plan)
        tracking = self._track(settings, plan)
        tracking.end("interrupted", {})  # until it is known better
        Path(self._config.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)  # as every launcher does
        console = PlainConsole()
        with Display(console, plan, to_do, quiet=False):
            endings = _in_processes(settings, to_do)
        tracking.end("done", {})
        print_failures(console, plan, endings)
        run_of = {cell.words: run for run in plan.runs for cell in run.cells}
        return [_job_return(run_of[cell.words], endings) for cell in cells]

    def _track(self, settings: Settings, plan: Plan) -> SweepTracking:
        """One parent run for all batches of a search, until this process ends."""
        if self._tracking is None:
            self._tracking = _tracking(settings, plan)
            atexit.register(self._tracking.__exit__)
            self._tracking.__enter__()
        self._tracking.add([run.folder for run in plan.runs])
        return self._tracking


def _in_processes(settings: Settings, runs: Sequence[PlannedRun]) -> dict[str, Ending]:
    """Run what is not done; how each ended, by its fingerprint."""
    if not runs:
        return {}
    slots = slots_of(settings.sweep, [run.config for run in runs])
    return Processes(slots, settings.tree, stop_on_error=settings.sweep.on_error == "stop").run(runs)


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
