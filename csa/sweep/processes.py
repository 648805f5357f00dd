"""Runs as processes of this machine, so many at once: what of it each gets (found out without torch); started, watched,
stopped.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from csa.cli import CTRL_C_STATUS, EXIT_FAULTS, HELD_STATUS, REQUEUE_STATUS, SWEEP_PROCESS, disk_trouble, handling
from csa.config.faults import Fault, RecordError, UserError, hidden
from csa.config.host import GIGABYTE, GPUS, SLOT_THREADS, cores, free_memory, total_memory, visible_gpus
from csa.console import counting
from csa.data.dataset import least_memory, preview
from csa.tracking.files import write_json
from csa.tracking.lease import holder, is_held
from csa.tracking.run import Run

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

    from csa.config.schema import Config, SweepConfig
    from csa.sweep.plan import PlannedRun

OUTPUT_NAME = "output.txt"
WALL_NAME = "wall.json"
POLL_SECONDS = 0.1
CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL)  # the run's own doing
TAIL_LINES = 12


# --- slots ----------------------------------------------------------------------------------

PROCESS_BYTES = 0.75e9  # Python, torch and csa
BYTES_OF_A_PIXEL = 3000
"""At most, of the images of a pass: what ResNet-32 keeps of it for the way back, in fp32."""
LEAST_PASSES = 2  # that a step is taken for: several experts keep more of one


@dataclass(frozen=True)
class Slot:
    """threads: of the processor; gpu: as CUDA_VISIBLE_DEVICES names it, None without one."""

    number: int
    threads: int
    gpu: str | None


def slots_of(sweep: SweepConfig, configs: Sequence[Config]) -> list[Slot]:
    """The slots of a sweep for runs of these configurations, of which there is at least one.

    ``sweep.slots``, else ``runtime.jobs_per_gpu`` for each GPU; without a GPU as many as there are cores for them,
    as far as the memory that is free goes round and there are runs. They share the cores.

    Raises:
        UserError: the runs that are asked for at once cannot have the memory that they need.
    """
    runtime = configs[0].runtime
    gpus = [] if runtime.device == "cpu" else visible_gpus()
    if gpus:
        count = sweep.slots or len(gpus) * runtime.jobs_per_gpu
    else:
        memory = free_memory() // memory_of_a_run(configs)
        count = sweep.slots or int(max(1, min(cores() // (runtime.threads or 1), memory, len(configs))))
        _refuse_too_many(min(count, len(configs)), configs)
    threads = runtime.threads or max(1, cores() // count)
    return [Slot(number, threads, gpus[number % len(gpus)] if gpus else None) for number in range(count)]


def _refuse_too_many(count: int, configs: Sequence[Config]) -> None:
    config, total = configs[0], total_memory()
    known = preview(config.dataset, config.data_dir)
    needed = least_memory(config, known) if count > 1 and known is not None else 0
    if count * needed > total:
        needed_gb, total_gb = count * needed / GIGABYTE, total / GIGABYTE
        problem = f"so many runs at once need {needed_gb:,.1f} GB of memory or more, and there are {total_gb:,.1f} GB"
        raise UserError(Fault("sweep.slots", count, problem, f"at most {max(1, int(total // needed))}"))


def memory_of_a_run(configs: Sequence[Config]) -> float:
    """Bytes that the largest of these takes on the processor, roughly and rather more than less."""
    different = {repr((config.dataset, config.data_dir, _images_of_a_step(config))): config for config in configs}
    return max(map(_memory, different.values()))


def _memory(config: Config) -> float:
    """The process, the data set and what is taken of it, the activations of a step."""
    known = preview(config.dataset, config.data_dir)
    if known is None:
        return PROCESS_BYTES
    channels, height, width = known.image_shape
    images = 2 * sum(known.class_sizes) * channels * height * width if known.in_memory else 0
    return PROCESS_BYTES + images + BYTES_OF_A_PIXEL * _images_of_a_step(config) * height * width


def _images_of_a_step(config: Config) -> int:
    return config.protocol.batch_size * max(LEAST_PASSES, config.method.passes())


def in_words(slots: Sequence[Slot], configs: Sequence[Config]) -> str:
    """``2 at once, 1 thread each``, and what they take of the memory, where that may be what limits them."""
    each = counting(slots[0].threads, "thread")
    text = f"{len(slots)} at once, {each} each" if len(slots) > 1 else f"one at a time, {each}"
    if slots[0].gpu is None:
        each_gb, free_gb = memory_of_a_run(configs) / GIGABYTE, free_memory() / GIGABYTE
        text += f", about {each_gb:.1f} GB of memory each; {free_gb:.1f} GB are free"
    return text


# --- processes ------------------------------------------------------------------------------


@dataclass
class Ending:
    """How a run ended in this start of the sweep.

    reason: the last lines that say why; refused: it was not to be started so, and its record says nothing of that.
    """

    how: Literal["done", "failed", "interrupted"]
    reason: str = ""
    refused: bool = False


class SweepStopped(SystemExit):
    """Ctrl-C (130) or SIGTERM (75): every run is saved, the same command continues. endings: until then."""

    def __init__(self, status: int, endings: dict[str, Ending]) -> None:
        super().__init__(status)
        self.endings = endings


@dataclass
class _Child:
    run: PlannedRun
    slot: Slot
    process: subprocess.Popen[bytes]
    started: float
    fresh: bool
    signals: int = 0


class Processes:
    """tree: words that choose the primary configuration (``--config-name table2``)."""

    def __init__(self, slots: Sequence[Slot], tree: Sequence[str], *, stop_on_error: bool) -> None:
        self._free = deque(slots)
        self._tree = tuple(tree)
        self._stop_on_error = stop_on_error
        self._children: list[_Child] = []
        self._signals: list[int] = []

    def run(self, runs: Sequence[PlannedRun]) -> dict[str, Ending]:
        """How each run ended, by its fingerprint; one that was not started is not in it.

        A run that another process is training is waited for, and taken over if that process ends.

        Raises:
            SweepStopped: a signal asked to stop; every child has ended.
        """
        waiting, endings = deque(runs), dict[str, Ending]()
        with handling((signal.SIGINT, signal.SIGTERM), self._on_signal):
            while self._children or (waiting and not self._signals):
                self._start(waiting, endings)
                time.sleep(POLL_SECONDS)
                self._pass_on_signals()
                for child in [child for child in self._children if child.process.poll() is not None]:
                    self._children.remove(child)
                    self._free.append(child.slot)
                    if child.process.returncode == HELD_STATUS:
                        waiting.append(child.run)
                        continue
                    self._end(child.run, self._ending(child), waiting, endings)
        if self._signals:
            raise SweepStopped(CTRL_C_STATUS if self._signals[0] == signal.SIGINT else REQUEUE_STATUS, endings)
        return endings

    def _end(self, run: PlannedRun, ending: Ending, waiting: deque[PlannedRun], endings: dict[str, Ending]) -> None:
        endings[run.fingerprint] = ending
        if ending.how == "failed" and self._stop_on_error:
            waiting.clear()

    # --- starting ---------------------------------------------------------------------------

    def _start(self, waiting: deque[PlannedRun], endings: dict[str, Ending]) -> None:
        for _ in range(len(waiting)):
            if not self._free or self._signals or not waiting:
                return
            run = waiting.popleft()
            if is_held_here(run.folder) or self._trains_first_stage_of(run):
                waiting.append(run)
            elif run.state == "done" and not run.config.rerun:  # another process has finished it
                self._end(run, Ending("done"), waiting, endings)
            else:
                try:
                    self._children.append(self._spawn(run, self._free[0]))
                except OSError as error:  # no disk, no memory, no process
                    problem = disk_trouble(error, run.folder) or str(error)
                    self._end(run, Ending("failed", problem), waiting, endings)
                else:
                    self._free.popleft()

    def _trains_first_stage_of(self, run: PlannedRun) -> bool:
        """Whether a child is at the stage that this run can start from; it would only train the same beside it."""
        return run.first_stage is not None and run.first_stage in (child.run.first_stage for child in self._children)

    def _spawn(self, run: PlannedRun, slot: Slot) -> _Child:
        run.folder.mkdir(parents=True, exist_ok=True)
        (run.folder / "failure.json").unlink(missing_ok=True)  # of an earlier start
        fresh = run.state == "planned"
        threads, command = str(slot.threads), command_of(run, self._tree)  # which puts passwords into the environment
        environment = os.environ | {SWEEP_PROCESS: str(os.getpid()), "PYTHONUNBUFFERED": "1"}
        environment |= {SLOT_THREADS: threads, "OMP_NUM_THREADS": threads}
        if slot.gpu is not None:
            environment[GPUS] = slot.gpu
        with (run.folder / OUTPUT_NAME).open("ab") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # Ctrl-C reaches it through us, once
            )
        return _Child(run, slot, process, time.monotonic(), fresh)

    # --- ending -----------------------------------------------------------------------------

    def _ending(self, child: _Child) -> Ending:
        run, status = child.run, child.process.returncode
        if run.state == "done" and (status == 0 or not run.config.rerun):
            if child.fresh:
                _keep_wall(run, time.monotonic() - child.started)
            return Ending("done")
        if self._signals:
            return Ending("interrupted")
        if status == EXIT_FAULTS:
            return Ending("failed", tail(run.folder / OUTPUT_NAME), refused=True)
        if (status < 0 and -status not in CRASHES) or status in (REQUEUE_STATUS, CTRL_C_STATUS):
            how = f"killed by {signal.Signals(-status).name}" if status < 0 else "stopped by a signal"
            return Ending("failed", f"{tail(run.folder / OUTPUT_NAME)}\n{how}; the next start continues it".strip())
        if run.state != "failed":
            how = f"exit status {status}" if status >= 0 else f"killed by {signal.Signals(-status).name}"
            text = f"{tail(run.folder / OUTPUT_NAME)}\n{how}".strip()
            try:
                run.record.fail({"reason": text})
            except OSError:  # the same, most likely, that ended the run
                return Ending("failed", text)
        return Ending("failed", reason(run.folder))

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._signals.append(number)

    def _pass_on_signals(self) -> None:
        """The first asks every run to save and stop, a second Ctrl-C ends them at once."""
        for child in self._children:
            for position, number in enumerate(self._signals[child.signals :], child.signals):
                child.process.send_signal(signal.SIGKILL if position and number == signal.SIGINT else number)
            child.signals = len(self._signals)


def command_of(run: PlannedRun, tree: Sequence[str]) -> list[str]:
    own = ["hydra.mode=RUN", "runtime.progress=false", *run.config.tracking.of_a_sweep()]
    if run.record.checkpoint.exists() and not run.config.rerun:
        own.append("runtime.threads=null")  # it keeps its own number
    return [sys.executable, "-m", "csa.run", *tree, *hidden(run.words), *own]


def is_held_here(folder: Path) -> bool:
    """Whether a process of this machine is training the run.

    A lease of another machine may be that of a process which is long dead: the run itself finds out, and
    leaves with HELD_STATUS where its holder lives.
    """
    other = holder(folder)
    return other is not None and other.is_here and is_held(folder)


def reason(folder: Path) -> str:
    """The last lines that say why a run failed: of failure.json, else of what the process wrote."""
    try:
        failure = Run(folder).failure()
    except FileNotFoundError:
        return tail(folder / OUTPUT_NAME)
    return "\n".join(failure.splitlines()[-TAIL_LINES:])


def tail(path: Path) -> str:
    try:
        return "\n".join(path.read_text(errors="replace").strip().splitlines()[-TAIL_LINES:])
    except OSError:
        return ""


def _keep_wall(run: PlannedRun, seconds: float) -> None:
    """What a run takes beyond its training and evaluation: the next plan counts with it."""
    with contextlib.suppress(OSError, RecordError):
        beyond = max(0.0, seconds - run.record.result["seconds"])
        write_json(run.folder / WALL_NAME, {"beyond_training_seconds": round(beyond, 2)})
