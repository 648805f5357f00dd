"""``tracking=wandb``: a run of Weights & Biases for each record; ``pip install "csa[wandb]"``."""

from __future__ import annotations

import shlex
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from csa.config.schema import TrackingConfig
from csa.tracking.tracker import Tracker, lacking

if TYPE_CHECKING:
    from pathlib import Path

    from csa.config.faults import Fault
    from csa.tracking.snapshot import Snapshot

EXIT_STATUS = {"done": 0, "failed": 1, "interrupted": 255}


@dataclass(frozen=True, kw_only=True)
class WandbTracking(TrackingConfig):
    """entity: user or team; None: that of the account."""

    project: str
    entity: str | None
    mode: Literal["online", "offline"]


class WandbTracker(Tracker[WandbTracking]):
    """Online a run is taken up where the server has it; an offline one, whose files only grow, is written anew."""

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
