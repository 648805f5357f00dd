"""What a tracker is: something that reads recorded runs and writes them somewhere else; and those to a table of the run
folder, TensorBoard and Weights & Biases. MLflow's has a folder of its own.

The record is the truth and the outbox: a tracker makes its own place equal to it, however often it is asked.
"""

from __future__ import annotations

import csv
import shlex
import shutil
from abc import ABC, abstractmethod
from dataclasses import dataclass
from importlib.util import find_spec
from io import StringIO
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from csa.config.blocks import named_class
from csa.config.faults import Fault
from csa.config.schema import TrackingConfig
from csa.tracking.files import write_text

if TYPE_CHECKING:
    from pathlib import Path

    from torch.utils.tensorboard import SummaryWriter

    from csa.tracking.snapshot import Snapshot
    from csa.tracking.sweeps import Sweep

Settings = TypeVar("Settings", bound=TrackingConfig)


class Tracker(ABC, Generic[Settings]):
    """One place that recorded runs go to; made of its block of the configuration.

    ``faults`` and ``browse`` are asked by the command itself, and import nothing heavy. All else runs in a process
    beside the training: it may be slow, and may raise; then it is asked again, later each time.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def faults(self) -> list[Fault]:
        """What shows before anything runs: a package that is not there, an address that is none."""
        return []

    def browse(self, folder: Path) -> str:
        """What to open, or to type into a shell, to see the run of ``folder``; "" where there is nothing to say."""
        return ""

    def reach(self) -> None:
        """Raise UserError where nothing at all can be written at present."""

    @abstractmethod
    def push(self, run: Snapshot) -> str:
        """Make the place equal to the record; what was sent, in words for a person, or "" where nothing was missing.

        It is called while the run trains, whenever its files have changed, and again from its start by another process
        after this one was killed: what is there already must not be there twice.
        """

    def push_sweep(self, sweep: Sweep) -> str | None:
        """As ``push``, for the sweep itself; the name of its run there, if it has one, is noted in all its runs."""
        return None

    def close(self, folder: Path) -> None:
        """Let go of what is kept of a run between two pushes: it has ended, or pushing it has failed."""


def tracker_of(settings: TrackingConfig) -> Tracker[Any] | None:
    """None: the local record only. Raises UserError where ``target`` names no tracker."""
    if settings.target is None:
        return None
    base: type[Tracker[Any]] = Tracker
    return named_class("tracking.target", settings.target, base)(settings)


def lacking(settings: TrackingConfig, package: str) -> list[Fault]:
    """A fault where a package is not installed that the extra of the same name brings."""
    found = find_spec(package)
    if found is not None and found.origin is not None:  # a folder of that name would be found, too: wandb makes one
        return []
    return [Fault("tracking", settings.name, "is not installed", f"pip install 'csa[{package}]', or tracking=none")]


# --- tracking=csv ---------------------------------------------------------------------------

TABLE = "metrics.csv"


class CsvTracker(Tracker[TrackingConfig]):
    """``metrics.csv`` in the run folder, a row an epoch; the last row has what only the end knows."""

    def browse(self, folder: Path) -> str:
        return str(folder / TABLE)

    def push(self, run: Snapshot) -> str:
        """The whole table: as many rows as the record has epochs, also where it was cut back to its checkpoint."""
        rows: list[dict[str, Any]] = [
            {"step": step, "stage": line["stage"], "epoch": line["epoch"], **metrics}
            for step, (line, metrics) in enumerate(zip(run.lines, run.epochs(), strict=True))
        ]
        if rows:
            rows[-1] |= run.final_metrics()
        text = StringIO()
        columns = dict.fromkeys(("step", "stage", "epoch", *(name for row in rows for name in row)))
        table = csv.DictWriter(text, columns, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
        path = run.folder / TABLE
        if path.exists() and path.read_text() == text.getvalue():
            return ""
        write_text(path, text.getvalue())
        return f"wrote {len(rows)} epochs"


# --- tracking=tensorboard -------------------------------------------------------------------


class TensorboardTracker(Tracker[TrackingConfig]):
    """Event files in ``tensorboard/`` of the run folder.

    They only grow: after each start, and where the record was cut back, they are written anew.
    """

    def __init__(self, settings: TrackingConfig) -> None:
        super().__init__(settings)
        self._open: dict[Path, tuple[SummaryWriter, int]] = {}

    def faults(self) -> list[Fault]:
        return lacking(self.settings, "tensorboard")

    def browse(self, folder: Path) -> str:
        return f"tensorboard --logdir {shlex.quote(str(folder.parents[2]))}"

    def push(self, run: Snapshot) -> str:
        epochs, times = run.epochs(), run.line_times()
        if run.folder in self._open and self._open[run.folder][1] > len(epochs):
            self.close(run.folder)
        writer, written = self._open.get(run.folder) or (_event_files(run.folder / "tensorboard"), 0)
        for step in range(written, len(epochs)):
            for name, value in epochs[step].items():
                writer.add_scalar(name, value, step, walltime=times[step] / 1000)
        self._open[run.folder] = writer, len(epochs)
        writer.flush()
        if run.state != "running":
            if run.state == "done":
                _add_end(writer, run)
            self.close(run.folder)
        return f"wrote {len(epochs) - written} epochs" if len(epochs) > written else ""

    def close(self, folder: Path) -> None:
        writer, _ = self._open.pop(folder, (None, 0))
        if writer is not None:
            writer.close()


def _event_files(folder: Path) -> SummaryWriter:
    from torch.utils.tensorboard import SummaryWriter

    shutil.rmtree(folder, ignore_errors=True)
    return SummaryWriter(str(folder), purge_step=0)  # a TensorBoard that looks on forgets what it has read


def _add_end(writer: SummaryWriter, run: Snapshot) -> None:
    """Final measures, and settings by which TensorBoard compares runs in its tab HPARAMS."""
    kinds, texts = (bool, int, float, str), run.parameters
    settings = {key: value if isinstance(value, kinds) else texts[key] for key, value in run.settings.items()}
    writer.add_hparams(settings, run.final_metrics(), run_name=".", global_step=max(len(run.lines) - 1, 0))


# --- tracking=wandb -------------------------------------------------------------------------

EXIT_STATUS = {"done": 0, "failed": 1, "interrupted": 255}


@dataclass(frozen=True, kw_only=True)
class WandbTracking(TrackingConfig):
    """entity: user or team; None: that of the account."""

    project: str
    entity: str | None
    mode: Literal["online", "offline"]


class WandbTracker(Tracker[WandbTracking]):
    """A run of Weights & Biases for each record.

    Online it is taken up where the server has it; an offline one, whose files only grow, is written anew.
    """

    def __init__(self, settings: WandbTracking) -> None:
        super().__init__(settings)
        self._open: dict[Path, tuple[Any, int]] = {}

    def faults(self) -> list[Fault]:
        return lacking(self.settings, "wandb")

    def browse(self, folder: Path) -> str:
        return f"wandb sync {shlex.quote(str(folder))}/wandb/offline-run-*" if self._offline else "wandb.ai"

    def push(self, run: Snapshot) -> str:
        if run.folder in self._open and self._open[run.folder][0].id != run.key:
            self.close(run.folder)  # it was started over
        there, sent = self._open.get(run.folder) or self._begun(run)
        epochs = run.epochs()
        for step in range(sent, len(epochs)):
            there.log(epochs[step], step=step, commit=True)
        self._open[run.folder] = there, max(sent, len(epochs))
        if run.state != "running":
            there.summary.update(run.final_metrics())
            self.close(run.folder, EXIT_STATUS[run.state])
        return f"sent {len(epochs) - sent} epochs" if len(epochs) > sent else ""

    def close(self, folder: Path, status: int = EXIT_STATUS["interrupted"]) -> None:
        there, _ = self._open.pop(folder, (None, 0))
        if there is not None:
            there.finish(exit_code=status)

    @property
    def _offline(self) -> bool:
        return self.settings.mode == "offline"

    def _begun(self, run: Snapshot) -> tuple[Any, int]:
        """A run of wandb's, and the epochs that it has."""
        import wandb

        if self._offline:
            for folder in (run.folder / "wandb").glob(f"offline-run-*-{run.key}"):
                shutil.rmtree(folder)
        sweeps = [sweep["name"] for sweep in run.sweeps]
        there = wandb.init(
            project=self.settings.project, entity=self.settings.entity, mode=self.settings.mode,
            id=run.key, resume=None if self._offline else "allow", reinit="create_new",
            name=run.name, group=sweeps[0] if sweeps else None, config=run.settings, dir=run.folder,
            settings=wandb.Settings(console="off", silent=True, x_disable_stats=True),
        )  # fmt: skip
        return there, there.step
