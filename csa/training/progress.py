"""What a person sees while a run trains: bars with the time left on a terminal, lines elsewhere."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

if TYPE_CHECKING:
    from collections.abc import Sequence

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
        self._last_of_stage = clock.epoch + 1 == clock.epochs
        self._first_of_stage = clock.epoch == 0
        self._epochs = clock.epochs
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
        if not self._bars and (due or self._first_of_stage or self._last_of_stage):
            self._printed_at = time.monotonic()
            self._console.print(f"{line['stage']} epoch {line['epoch'] + 1}/{self._epochs}  {note}")


def epoch_in_words(line: dict[str, Any]) -> str:
    """An epoch in words, from its line of metrics.jsonl; accuracy of the head that stands for the run."""
    rate = line["images"] / line["seconds"]
    return f"loss {line['loss']:.3f}  test {line['heads'][line['head']]['all']:.1f} %  {rate:,.0f} images/s"
