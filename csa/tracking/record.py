"""Writing the record of a run: a folder whose files tell its state.

    config.yaml       the resolved configuration
    identity.json     what the fingerprint is made of, and the fingerprint
    metrics.jsonl     one line an epoch
    checkpoint.pt     where training stands (and checkpoint.pt.previous)
    test_outputs.npz  logits (fp16), predictions and their probabilities of each head on the test set, and the labels
    result.json       the outcome; written last, so its presence means done
    failure.json      why the run failed, until it is started again
    log.txt           what happened when

The record is complete without MLflow. No password is in it.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import platform
import shutil
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from csa.config.faults import without_passwords
from csa.metrics import GROUPS, SUMMARY, completed
from csa.tracking.description import SCHEMA
from csa.tracking.files import npz, remove_drafts, write_bytes, write_json, write_text
from csa.tracking.lease import LOCK_NAME
from csa.tracking.run import OUTPUTS, Run

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import numpy as np

    from csa.metrics import ShotGroups

LARGE = ("checkpoint.pt", OUTPUTS)
PACKAGES = (
    "csa", "torch", "torchvision", "numpy", "lightning-fabric",
    "hydra-core", "omegaconf", "mlflow", "pandas", "scikit-learn",
)  # fmt: skip


class Record(Run):
    """A run whose folder this process writes; what was read of it before does not count any more."""

    def begin(self, config: str, identity: Mapping[str, Any], fingerprint: str) -> None:
        """Before training: who this run is. Removes the failure of an earlier start."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in LARGE:
            remove_drafts(self.folder / name)
        write_text(self.folder / "config.yaml", without_passwords(config))
        write_json(self.folder / "identity.json", {"fingerprint": fingerprint, "identity": identity})
        (self.folder / "failure.json").unlink(missing_ok=True)
        self._forget()

    def take_back(self) -> None:
        """Undo ``begin`` for a run that has not trained: it is planned, and not interrupted.

        Nothing is left of a folder where it was the first start; the log of others stays.
        """
        for name in ("identity.json", "config.yaml", "metrics.jsonl"):
            (self.folder / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            if {path.name for path in self.folder.iterdir()} <= {LOCK_NAME}:
                shutil.rmtree(self.folder)
                for parent in (self.folder.parent, self.folder.parent.parent):  # method and data set
                    parent.rmdir()

    def start_over(self) -> None:
        """Forget what was trained, keep the log."""
        trained, tracked = ("result.json", "metrics.jsonl", OUTPUTS, "failure.json"), ("mlflow.json", "tracking.json")
        for name in (*trained, *tracked):
            (self.folder / name).unlink(missing_ok=True)
        for path in self.folder.glob("checkpoint.pt*"):
            path.unlink()
        self._forget()

    def write_metrics(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Replace the metrics file: on resuming it is cut back to what the checkpoint knows."""
        write_text(self.folder / "metrics.jsonl", "".join(_line(line) for line in lines))

    def append_metrics(self, line: Mapping[str, Any]) -> None:
        with (self.folder / "metrics.jsonl").open("a") as stream:
            stream.write(_line(line))

    def finish(self, result: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        """Test outputs first, the result last; earlier checkpoints go."""
        write_bytes(self.folder / OUTPUTS, npz(**arrays))
        write_json(self.folder / "result.json", {"schema": SCHEMA, **result})
        (self.folder / "checkpoint.pt.previous").unlink(missing_ok=True)
        (self.folder / "failure.json").unlink(missing_ok=True)
        self._forget()

    def let_stand(self, head: str, by_rank: ShotGroups) -> bool:
        """Let ``head`` stand for this finished run from now on, and these be its shot groups; False where they do.

        Only which of the measured numbers are the run's own changes, and what is a mean over the groups: in the result,
        and of the configuration ``method.primary_head`` and ``dataset.groups``. The lines of metrics.jsonl stay, and
        so does what MLflow has been sent.
        """
        from omegaconf import OmegaConf

        result, split = self.result, self.result["split"]
        if (result["head"], split["by_rank"]) == (head, by_rank):
            return False
        heads = {
            name: {when: completed(one, by_rank, split["by_count"]) for when, one in evaluations.items()}
            for name, evaluations in result["heads"].items()
        }
        scores = heads[head]["last"]
        own = {"head": head, "collapsed": scores["predicted_classes"] == 1, **{name: scores[name] for name in SUMMARY}}
        config = OmegaConf.create(self.config)
        if "primary_head" in config.method:
            config.method.primary_head = head
        config.dataset.groups = [len(by_rank[name]) for name in GROUPS]
        write_text(self.folder / "config.yaml", OmegaConf.to_yaml(config))
        write_json(self.folder / "result.json", result | own | {"heads": heads, "split": split | {"by_rank": by_rank}})
        self._forget()
        self.log(f"head {head} and shot groups of {config.dataset.groups} classes stand for the run from now on")
        return True

    def fail(self, failure: Mapping[str, Any]) -> None:
        shown = {key: without_passwords(value) if isinstance(value, str) else value for key, value in failure.items()}
        write_json(self.folder / "failure.json", {"schema": SCHEMA, **shown})

    def log(self, text: str) -> None:
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")
        with (self.folder / "log.txt").open("a") as stream:
            stream.write(f"{now}Z  {without_passwords(text)}\n")

    def _forget(self) -> None:
        for part in ("_who", "config", "result", "labels"):
            self.__dict__.pop(part, None)


class SecondRecord(Record):
    """Of a process that trains beside the one which writes: it reads, and tells of a failure."""

    def write_metrics(self, lines: Iterable[Mapping[str, Any]]) -> None:
        pass

    def append_metrics(self, line: Mapping[str, Any]) -> None:
        pass

    def finish(self, result: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        pass

    def log(self, text: str) -> None:
        pass


def _line(fields: Mapping[str, Any]) -> str:
    return json.dumps(fields, allow_nan=False) + "\n"


# --- software -------------------------------------------------------------------------------


def software() -> dict[str, Any]:
    """Versions, and the git revision of the checkout this package runs from (None outside one)."""
    return {"python": platform.python_version(), "packages": _versions(), **_revision()}


@cache
def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _revision() -> dict[str, Any]:
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return {"git_revision": None, "git_dirty": None}
    revision = _git(root, "rev-parse", "HEAD")
    changes = _git(root, "status", "--porcelain", "--untracked-files=no")
    return {"git_revision": revision or None, "git_dirty": None if changes is None else bool(changes)}


def _git(root: Path, *words: str) -> str | None:
    try:
        answer = subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()
