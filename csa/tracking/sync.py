"""Send to MLflow what it missed: every recorded run under a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from csa.config.address import DEFAULT_URI
from csa.tracking import store
from csa.tracking.files import try_lock
from csa.tracking.followed import LOCK_NAME
from csa.tracking.mirror import Mirror
from csa.tracking.record import Record


@dataclass(frozen=True)
class Synced:
    """One run: its folder, how many epochs and artifacts were sent, and why it was left, if it was."""

    folder: Path
    epochs: int = 0
    artifacts: int = 0
    left: str = ""

    def __str__(self) -> str:
        if self.left:
            return f"{self.folder}: {self.left}"
        if not self.epochs and not self.artifacts:
            return f"{self.folder}: nothing was missing"
        return f"{self.folder}: sent {self.epochs} epochs and {self.artifacts} files"


def sync(output_root: Path, uri: str | None, experiment: str, model: str | None = None) -> list[Synced]:
    """Make MLflow equal to every record under ``output_root`` (``<data set>/<method>/<run>``).

    uri: None is ``sqlite:///mlflow.db`` in the working directory; experiment, model: as in ``Mirror``.
    A run that is being trained, or whose mirror another process writes, is left alone.

    Raises whatever MLflow raises where the store cannot be reached at all; the trouble of a single
    run is in its line.
    """
    store.settle_environment()
    uri = uri or DEFAULT_URI
    folders = sorted(path.parent for path in output_root.glob("*/*/*/identity.json"))
    if folders:
        store.connect(uri, experiment)
    return [_sync_one(folder, uri, experiment, model) for folder in folders]


def _sync_one(folder: Path, uri: str, experiment: str, model: str | None) -> Synced:
    if Record(folder).state == "running":
        return Synced(folder, left="is being trained")
    lock = try_lock(folder / LOCK_NAME)
    if lock is None:
        return Synced(folder, left="another process is sending it")
    with lock:
        mirror = Mirror(folder, uri, experiment, model)
        try:
            mirror.push()
        except Exception as error:
            mirror.note_trouble(error)
            return Synced(folder, left=f"failed: {mirror.sent.trouble}")
    return Synced(folder, mirror.epochs_sent, mirror.artifacts_sent, mirror.sent.trouble or "")
