"""``tracking=tensorboard``: event files in ``tensorboard/`` of the run folder; ``pip install "csa[tensorboard]"``."""

from __future__ import annotations

import shlex
import shutil
from typing import TYPE_CHECKING

from csa.config.schema import TrackingConfig
from csa.tracking.snapshot import in_a_word
from csa.tracking.tracker import Tracker, lacking

if TYPE_CHECKING:
    from pathlib import Path

    from torch.utils.tensorboard import SummaryWriter

    from csa.config.faults import Fault
    from csa.tracking.snapshot import Snapshot

NAME = "tensorboard"


class TensorboardTracker(Tracker[TrackingConfig]):
    """Event files only grow: after each start, and where the record was cut back, they are written anew."""

    def __init__(self, settings: TrackingConfig) -> None:
        super().__init__(settings)
        self._open: dict[Path, tuple[SummaryWriter, int]] = {}

    def faults(self) -> list[Fault]:
        return lacking(self.settings, NAME)

    def browse(self, folder: Path) -> str:
        return f"tensorboard --logdir {shlex.quote(str(folder.parents[2]))}"

    def push(self, run: Snapshot) -> str:
        epochs, times = run.epochs(), run.line_times()
        if run.folder in self._open and self._open[run.folder][1] > len(epochs):
            self.close(run.folder)
        writer, written = self._open.get(run.folder) or (_anew(run.folder / NAME), 0)
        for step in range(written, len(epochs)):
            for name, value in epochs[step].items():
                writer.add_scalar(name, value, step, walltime=times[step] / 1000)
        self._open[run.folder] = writer, len(epochs)
        writer.flush()
        if run.state != "running":
            if run.state == "done":
                _end(writer, run)
            self.close(run.folder)
        return f"wrote {len(epochs) - written} epochs" if len(epochs) > written else ""

    def close(self, folder: Path) -> None:
        writer, _ = self._open.pop(folder, (None, 0))
        if writer is not None:
            writer.close()


def _anew(folder: Path) -> SummaryWriter:
    from torch.utils.tensorboard import SummaryWriter

    shutil.rmtree(folder, ignore_errors=True)
    return SummaryWriter(str(folder), purge_step=0)  # a TensorBoard that looks on forgets what it has read


def _end(writer: SummaryWriter, run: Snapshot) -> None:
    """Final measures, and settings by which TensorBoard compares runs in its tab HPARAMS."""
    kinds = (bool, int, float, str)
    settings = {key: value if isinstance(value, kinds) else in_a_word(value) for key, value in run.settings.items()}
    writer.add_hparams(settings, run.final_metrics(), run_name=".", global_step=max(len(run.lines) - 1, 0))
