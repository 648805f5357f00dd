"""The local record of a run: a folder whose files tell its state.

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

import datetime
import json
import shutil
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from csa.config.faults import RecordError, without_passwords
from csa.config.recorded import recorded_values
from csa.metrics import GROUPS, SUMMARY, completed, confusion, scores
from csa.tracking import lease
from csa.tracking.description import (
    SCHEMA,
    FolderConfig,
    check_predictions,
    config_faults,
    identity_faults,
    line_faults,
    refuse,
    result_faults,
)
from csa.tracking.files import UNREADABLE, parse_json, read_json, remove_drafts, write_bytes, write_json, write_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from csa.metrics import ShotGroups

OUTPUTS = "test_outputs.npz"
LARGE = ("checkpoint.pt", OUTPUTS)
State = Literal["planned", "running", "interrupted", "failed", "done"]


class OtherPredictionsError(Exception):
    """The accuracies of a record are not those of its predictions."""


class Record:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    # --- state ----------------------------------------------------------------------------

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    @property
    def state(self) -> State:
        if (self.folder / "result.json").exists():
            return "done"
        if lease.is_held(self.folder):
            return "running"
        if (self.folder / "failure.json").exists():
            return "failed"
        return "interrupted" if (self.folder / "identity.json").exists() else "planned"

    def who(self) -> dict[str, Any]:
        """identity.json: ``fingerprint``, and the ``identity`` that it is of. Raises as ``result``."""
        who: dict[str, Any] = self._checked("identity.json", read_json, identity_faults)
        return who

    def config(self) -> dict[str, Any]:
        """The resolved configuration; nothing in it is resolved again. Raises as ``result``."""
        path = self.folder / "config.yaml"
        config = recorded_values(path)
        refuse(path, config_faults(config, FolderConfig))
        return config

    def result(self) -> dict[str, Any]:
        """The outcome; of schema 1 scored anew.

        Raises:
            FileNotFoundError: the run is not done.
            RecordError: damaged, written by another schema, or by schema 1 and without whole test outputs.
        """
        result: dict[str, Any] = self._checked("result.json", read_json, result_faults)
        if result["schema"] == SCHEMA:
            return result
        try:
            with np.load(self.folder / OUTPUTS, allow_pickle=False) as outputs:
                return scored_anew(result, lambda head: outputs[f"confusion_{head}"])
        except (*UNREADABLE, OtherPredictionsError) as error:
            told = f"has schema 1, this version reads {SCHEMA}, and it cannot be scored anew ({error!r})"
            raise RecordError(self.folder / "result.json", told) from error

    def finished(self) -> dict[str, Any] | None:
        """The outcome, where it is there and can be read."""
        try:
            return self.result()
        except (FileNotFoundError, RecordError):
            return None

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; a last line that was cut in writing does not count. Raises RecordError."""
        try:
            lines: list[dict[str, Any]] = self._checked("metrics.jsonl", _read_lines, line_faults)
        except FileNotFoundError:
            return []
        return lines

    def predictions(self, result: Mapping[str, Any]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Test labels and the predictions of each head, int32 [N], that give the accuracies of the result.

        Raises:
            RecordError: they are damaged, or give others.
        """
        path, classes = self.folder / OUTPUTS, len(result["split"]["classes"])
        try:
            with np.load(path, allow_pickle=False) as outputs:
                labels = outputs["labels"]
                predictions = {head: outputs[f"predictions_{head}"] for head in result["heads"]}
            check_predictions(result, labels, predictions)
            scored_anew(result, lambda head: confusion(labels, predictions[head], classes))
        except (*UNREADABLE, OtherPredictionsError) as error:
            raise RecordError(path, f"cannot be used ({type(error).__name__}: {error})") from error
        return labels.astype(np.int32), {head: array.astype(np.int32) for head, array in predictions.items()}

    def failure(self) -> str:
        """Why the run failed. Raises FileNotFoundError where it has not."""
        try:
            return str(read_json(self.folder / "failure.json")["reason"]).strip()
        except FileNotFoundError:
            raise
        except UNREADABLE:
            return "failure.json cannot be read"

    def _checked(self, name: str, read: Callable[[Path], Any], faults: Callable[[Any], Iterable[Any]]) -> Any:
        path = self.folder / name
        try:
            content = read(path)
        except FileNotFoundError:
            raise
        except UNREADABLE as error:
            told = str(error).partition("\n")[0]
            raise RecordError(path, f"cannot be read ({type(error).__name__}: {told})") from error
        refuse(path, faults(content))
        return content

    # --- writing --------------------------------------------------------------------------

    def begin(self, config: str, identity: Mapping[str, Any], fingerprint: str) -> None:
        """Before training: who this run is. Removes the failure of an earlier start."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in LARGE:
            remove_drafts(self.folder / name)
        write_text(self.folder / "config.yaml", without_passwords(config))
        write_json(self.folder / "identity.json", {"fingerprint": fingerprint, "identity": identity})
        (self.folder / "failure.json").unlink(missing_ok=True)

    def take_back(self) -> None:
        """Undo ``begin`` for a run that has not trained: it is planned, and not interrupted."""
        for name in ("identity.json", "config.yaml", "metrics.jsonl"):
            (self.folder / name).unlink(missing_ok=True)

    def start_over(self) -> None:
        """Forget what was trained, keep the log."""
        trained, tracked = ("result.json", "metrics.jsonl", OUTPUTS, "failure.json"), ("mlflow.json", "tracking.json")
        for name in (*trained, *tracked):
            (self.folder / name).unlink(missing_ok=True)
        for path in self.folder.glob("checkpoint.pt*"):
            path.unlink()

    def write_metrics(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Replace the metrics file: on resuming it is cut back to what the checkpoint knows."""
        write_text(self.folder / "metrics.jsonl", "".join(_line(line) for line in lines))

    def append_metrics(self, line: Mapping[str, Any]) -> None:
        with (self.folder / "metrics.jsonl").open("a") as stream:
            stream.write(_line(line))

    def finish(self, result: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        """Test outputs first, the result last; earlier checkpoints go."""
        buffer = BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **arrays)
        write_bytes(self.folder / "test_outputs.npz", buffer.getvalue())
        write_json(self.folder / "result.json", {"schema": SCHEMA, **result})
        (self.folder / "checkpoint.pt.previous").unlink(missing_ok=True)
        (self.folder / "failure.json").unlink(missing_ok=True)

    def let_stand(self, head: str, by_rank: ShotGroups) -> bool:
        """Let ``head`` stand for this finished run from now on, and these be its shot groups; False where they do.

        Only which of the measured numbers are the run's own changes, and what is a mean over the groups: in the result,
        and of the configuration ``method.primary_head`` and ``dataset.groups``. The lines of metrics.jsonl stay, and
        so does what MLflow has been sent.
        """
        from omegaconf import OmegaConf

        result = self.result()
        split = result["split"]
        if (result["head"], split["by_rank"]) == (head, by_rank):
            return False
        heads = {
            name: {when: completed(one, by_rank, split["by_count"]) for when, one in evaluations.items()}
            for name, evaluations in result["heads"].items()
        }
        scores = heads[head]["last"]
        own = {"head": head, "collapsed": scores["predicted_classes"] == 1, **{name: scores[name] for name in SUMMARY}}
        self.config()
        config = OmegaConf.load(self.folder / "config.yaml")
        if "primary_head" in config.method:
            config.method.primary_head = head
        config.dataset.groups = [len(by_rank[name]) for name in GROUPS]
        write_text(self.folder / "config.yaml", OmegaConf.to_yaml(config))
        write_json(self.folder / "result.json", result | own | {"heads": heads, "split": split | {"by_rank": by_rank}})
        self.log(f"head {head} and shot groups of {config.dataset.groups} classes stand for the run from now on")
        return True

    def fail(self, failure: Mapping[str, Any]) -> None:
        told = {key: without_passwords(value) if isinstance(value, str) else value for key, value in failure.items()}
        write_json(self.folder / "failure.json", {"schema": SCHEMA, **told})

    def log(self, text: str) -> None:
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")
        with (self.folder / "log.txt").open("a") as stream:
            stream.write(f"{now}Z  {without_passwords(text)}\n")

    def remove(self) -> None:
        shutil.rmtree(self.folder)


class SecondRecord(Record):
    """Of a process that trains beside the one which writes: it reads, and tells of a failure."""

    def begin(self, config: str, identity: Mapping[str, Any], fingerprint: str) -> None:
        pass

    def take_back(self) -> None:
        pass

    def start_over(self) -> None:
        pass

    def write_metrics(self, lines: Iterable[Mapping[str, Any]]) -> None:
        pass

    def append_metrics(self, line: Mapping[str, Any]) -> None:
        pass

    def finish(self, result: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        pass

    def log(self, text: str) -> None:
        pass


def scored_anew(result: Mapping[str, Any], confusion: Callable[[str], np.ndarray]) -> dict[str, Any]:
    """A result of any schema from 1 on with what ``csa.metrics`` makes of it now. confusion: of a head, last epoch.

    The last epoch's scores follow from the confusion matrix but for the calibration error, which stays. Of the best
    epoch and the validation images only class accuracies are recorded, so that schema 1 has no macro F1 of them.

    Raises:
        OtherPredictionsError: the recorded accuracies are not those of the confusion matrix.
    """
    groups = result["split"]["by_rank"], result["split"]["by_count"]
    heads = {}
    for head, evaluations in result["heads"].items():
        said, found = evaluations["last"], scores(confusion(head), evaluations["last"]["ece"], *groups).as_dict()
        if said["all"] != found["all"]:
            raise OtherPredictionsError(f"head {head!r}: {said['all']} % recorded, {found['all']} % predicted")
        if said["per_class"] != found["per_class"]:
            raise OtherPredictionsError(f"head {head!r}: the class accuracies recorded are not those predicted")
        heads[head] = {name: completed(one, *groups) for name, one in evaluations.items()} | {"last": found}
    own = {name: heads[result["head"]]["last"][name] for name in SUMMARY}
    return {**result, **own, "heads": heads, "schema": SCHEMA}


def temperature(result: Mapping[str, Any], head: str) -> float | None:
    """By which the logits of a head are divided before they become probabilities; None without validation images."""
    found: float | None = result["heads"][head].get("holdout", {}).get("temperature")
    return found


def _read_lines(path: Path) -> list[Any]:
    return [parse_json(line) for line in path.read_text().split("\n")[:-1]]


def _line(fields: Mapping[str, Any]) -> str:
    return json.dumps(fields, allow_nan=False) + "\n"
