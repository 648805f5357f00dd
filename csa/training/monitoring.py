"""A person beside a run: progress (bars on a terminal, lines elsewhere), a profile of its steps, Ctrl-C and SIGTERM."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from torch import profiler

from csa.cli import CTRL_C_STATUS, REQUEUE_STATUS
from csa.config.host import process_world
from csa.training.distributed import LostProcessError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch.profiler import profile

    from csa.console import PlainConsole
    from csa.methods.method import Clock, Stage

LINE_SECONDS = 10.0


class Progress:
    """Context manager. Counts on the host only: showing progress never waits for the device.

    bars: whether to draw bars (None: on a terminal only); without them a line is printed after the
    first and the last epoch of a stage and every ten seconds between.
    """

    def __init__(self, console: PlainConsole, stages: Sequence[Stage], bars: bool | None) -> None:
        self._console = console
        self._bars = console.is_terminal if bars is None else bars
        self._display = Bars(
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
            disable=not self._bars,
        )
        self._stages = {
            stage.name: self._display.add_task(stage.name, total=stage.epochs, note="epochs") for stage in stages
        }
        self._steps = self._display.add_task("steps", total=None, note="")
        self._printed_at = float("-inf")

    def __enter__(self) -> Progress:
        self._display.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._display.update(self._steps, visible=False)
        self._display.stop()

    def begin_epoch(self, stage: str, clock: Clock, sizes: Sequence[int], first: int) -> None:
        self._clock = clock
        self._images, self._started = 0, time.monotonic()
        self._display.update(self._stages[stage], completed=clock.epoch)
        self._display.reset(self._steps, total=len(sizes), completed=first, note="")

    def step(self, images: int) -> None:
        if not self._bars:
            return
        self._images += images
        rate = self._images / max(time.monotonic() - self._started, 1e-9)
        self._display.update(self._steps, advance=1, note=f"{rate:,.0f} images/s")

    def end_epoch(self, line: dict[str, Any]) -> None:
        note = epoch_in_words(line)
        self._display.update(self._stages[line["stage"]], completed=line["epoch"] + 1, note=note)
        due = time.monotonic() - self._printed_at >= LINE_SECONDS
        if not self._bars and (due or self._clock.epoch in (0, self._clock.epochs - 1)):
            self._printed_at = time.monotonic()
            self._console.print(f"{line['stage']} epoch {line['epoch'] + 1}/{self._clock.epochs}  {note}")


def epoch_in_words(line: dict[str, Any]) -> str:
    """An epoch in words, from its line of metrics.jsonl; accuracy of the head that stands for the run."""
    rate = line["images"] / line["seconds"]
    return f"loss {line['loss']:.3f}  test {line['heads'][line['head']]['all']:.1f} %  {rate:,.0f} images/s"


# --- profile --------------------------------------------------------------------------------


FOLDER, TRACE, OPERATIONS = "profile", "trace.json", "operations.txt"
SKIPPED_STEPS, WARM_STEPS, SEEN_STEPS = 3, 2, 10
DEAREST = 10


def where_profiled(folder: Path) -> str:
    """A line for the user about the profile of the run in ``folder``."""
    if (folder / FOLDER).is_dir():
        return f"profile: {folder / FOLDER} ({OPERATIONS}: the dearest operations; {TRACE}: for Perfetto)"
    return f"no profile: it needs {SKIPPED_STEPS + WARM_STEPS + SEEN_STEPS} steps of training"


class Profiling:
    """A few steps of the run's first epoch; does nothing unless ``wanted``.

    Leaves ``profile/trace.json`` (for Perfetto or chrome://tracing) and ``profile/operations.txt``, the ten
    operations that cost most of their own time.
    """

    def __init__(self, folder: Path, device: torch.device, *, wanted: bool) -> None:
        self._folder, self._device = folder / FOLDER, device
        self._profiler: profile | None = self._made() if wanted else None

    def _made(self) -> profile:
        activities = [profiler.ProfilerActivity.CPU]
        if self._device.type == "cuda":
            activities.append(profiler.ProfilerActivity.CUDA)
        plan = profiler.schedule(skip_first=SKIPPED_STEPS, wait=0, warmup=WARM_STEPS, active=SEEN_STEPS, repeat=1)
        return profiler.profile(activities=activities, schedule=plan, on_trace_ready=self._write)

    def __enter__(self) -> Profiling:
        if self._profiler is not None:
            self._profiler.start()
        return self

    def step(self) -> None:
        """After each step of training."""
        if self._profiler is not None:
            self._profiler.step()

    def __exit__(self, *_: object) -> None:
        if self._profiler is not None:
            self._profiler.stop()

    def _write(self, seen: profile) -> None:
        self._folder.mkdir(exist_ok=True)
        seen.export_chrome_trace(str(self._folder / TRACE))
        own_time = "self_device_time_total" if self._device.type == "cuda" else "self_cpu_time_total"
        table = seen.key_averages().table(sort_by=own_time, row_limit=DEAREST, max_name_column_width=60)
        (self._folder / OPERATIONS).write_text(f"{table}\n")


# --- stopping -------------------------------------------------------------------------------


class StoppedError(Exception):
    """Training was asked to stop; its checkpoint is written."""

    def __init__(self, status: int) -> None:
        super().__init__(f"stopped on request, exit status {status}")
        self.status = status


class Interruption:
    """Context manager that turns signals into a flag which the loop reads between two steps."""

    def __init__(self) -> None:
        self.status: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, _kind: object, error: object, _trace: object) -> None:
        if isinstance(error, LostProcessError | StoppedError) and process_world().size > 1:
            return  # the launcher asks all to stop when one has ended; this one is ending, and has things to do
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.status == CTRL_C_STATUS:
            raise KeyboardInterrupt
        self.status = CTRL_C_STATUS if number == signal.SIGINT else REQUEUE_STATUS
