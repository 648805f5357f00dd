"""Records to keep with the code: small, mergeable, without checkpoints, logits and paths of a machine.

    <data set>/<method>/<fingerprint>.json   identity, configuration, result: text with sorted keys
    <data set>/<method>/<fingerprint>.npz    predictions of each head on the test set, metrics lines
    <data set>/<method>/<fingerprint>-cuda.* the same run on a GPU: one identity, another result
    labels/<digest>.npz                      the test labels, shared by all records of a test set
    points/<figure>.npz                      what figures of networks can be drawn from (csa.figures.representation)

A prediction is stored as its offset from the label, modulo the number of classes: mostly zeros,
so that it packs well. The same record gives the same bytes, so exporting again changes nothing and
two people's folders merge by copying.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields, replace
from functools import cached_property, lru_cache
from io import BytesIO
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from csa.config.faults import RecordError
from csa.metrics import confusion
from csa.tracking.description import (
    RunConfig,
    agreement_faults,
    check_predictions,
    config_faults,
    identity_faults,
    line_faults,
    refuse,
    result_faults,
)
from csa.tracking.files import UNREADABLE, parse_json, read_json, write_bytes
from csa.tracking.record import OtherPredictionsError, scored_anew

if TYPE_CHECKING:
    from csa.tracking.record import Record

EXPORT_SCHEMA = 2
READ_SCHEMAS = (1, EXPORT_SCHEMA)
METRIC_DIGITS = 6
CONFIGURED = [field.name for field in fields(RunConfig)]
AGAIN = "export the run again with python -m csa.records mode=export"
STORED = ("fingerprint", "identity", "config", "result", "labels_digest")


class Exported(NamedTuple):
    """outcome: written; unchanged: the same bytes lay there; kept: others did, and stay."""

    path: Path
    outcome: Literal["written", "unchanged", "kept"]


# --- reading --------------------------------------------------------------------------------


@dataclass(frozen=True)
class ExportedRecord:
    """An exported record; its arrays are read when asked for.

    identity, config, result: as in the run's identity.json, config.yaml (without paths, tracking and
    what else is the machine's) and result.json, scored anew from the predictions. path: its ``.json``.
    """

    path: Path
    fingerprint: str
    identity: dict[str, Any]
    config: dict[str, Any]
    result: dict[str, Any]
    labels_digest: str

    @property
    def labels(self) -> np.ndarray:
        """Labels of the test set, int32 [N], read-only."""
        return _labels(self.path.parents[2] / "labels" / f"{self.labels_digest}.npz")

    def predictions(self, head: str) -> np.ndarray:
        """Predicted classes on the test set, int32 [N]. Raises RecordError, KeyError for a head that it has not."""
        if head not in self.result["heads"]:
            raise KeyError(head)
        predictions: np.ndarray = self._arrays[f"offsets_{head}"] + self.labels
        predictions %= len(self.result["split"]["classes"])
        return predictions

    def confusion(self, head: str) -> np.ndarray:
        """Counts [K, K], row = label, column = prediction. Raises as ``predictions``."""
        return confusion(self.labels, self.predictions(head), len(self.result["split"]["classes"]))

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, numbers to six significant digits."""
        lines: list[dict[str, Any]] = parse_json(self._arrays["metrics"].tobytes())
        return lines

    @cached_property
    def _arrays(self) -> dict[str, np.ndarray]:
        return _read_arrays(self.path.with_suffix(".npz"))


def exported_paths(folder: Path, fingerprint: str = "") -> list[Path]:
    """The records below ``folder``, or those of one run: by path, a run's on a GPU before that on the processor."""
    found = folder.glob(f"*/*/{fingerprint}*.json")
    return sorted(found, key=lambda path: (path.parent, path.stem.partition("-")[0], "-" not in path.stem, path.stem))


def read_exported(path: Path) -> ExportedRecord:
    """One exported record, whole. Raises RecordError where it is damaged, of another schema or not its predictions'."""
    try:
        return _read(path)
    except OtherPredictionsError as error:
        raise RecordError(path, f"has not the accuracies of its predictions ({error})", AGAIN) from error
    except UNREADABLE as error:
        raise RecordError(path, f"cannot be read ({type(error).__name__}: {error})", AGAIN) from error


def _read(path: Path) -> ExportedRecord:
    content = read_json(path)
    if content["schema"] not in READ_SCHEMAS:
        raise RecordError(path, f"has schema {content['schema']}, this version reads {EXPORT_SCHEMA}", AGAIN)
    record = ExportedRecord(path, **{name: content[name] for name in STORED})
    refuse(path, [*identity_faults(content), *config_faults(record.config), *result_faults(record.result)], AGAIN)
    refuse(path, agreement_faults(content, record.config, record.result), AGAIN)
    refuse(path.with_suffix(".npz"), line_faults(record.metrics()), AGAIN)
    offsets = {name.removeprefix("offsets_"): array for name, array in record._arrays.items() if name != "metrics"}
    check_predictions(record.result, record.labels, offsets)
    return replace(record, result=scored_anew(record.result, record.confusion))


@lru_cache(maxsize=16)
def _labels(path: Path) -> np.ndarray:
    labels = _read_arrays(path)["labels"]
    if _digest(labels) != path.stem:
        raise RecordError(path, "does not hold the labels that its name stands for", AGAIN)
    labels = labels.astype(np.int32)
    labels.flags.writeable = False
    return labels


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except UNREADABLE as error:
        raise RecordError(path, f"cannot be read ({type(error).__name__}: {error})", AGAIN) from error


# --- writing --------------------------------------------------------------------------------


def export(record: Record, to: Path, *, replace: bool = False) -> Exported:
    """Write a finished run below ``to``.

    A record that lies there already stays, unless it is damaged, of an older schema, or ``replace``.

    Raises:
        RecordError: damaged, of another schema, or the predictions do not give the accuracies.
        FileNotFoundError: a file is missing.
    """
    path, files = _files(record, to)
    if all(file.exists() and file.read_bytes() == content for file, content in files.items()):
        return Exported(path, "unchanged")
    if not replace and _stands(path):
        return Exported(path, "kept")
    path.unlink(missing_ok=True)  # cut off from here on, there is no record instead of a mixed one
    for file, content in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(file, content)
    return Exported(path, "written")


def _stands(path: Path) -> bool:
    """Whether a whole record lies there."""
    try:
        read_exported(path)
    except RecordError:
        return False
    return True


def _files(record: Record, to: Path) -> tuple[Path, dict[Path, bytes]]:
    """The record's ``.json``, and what belongs into each of its files; the ``.json``, which stands for it, last."""
    who, config, result, lines = record.who(), record.config(), record.result(), record.metrics()
    classes = len(result["split"]["classes"])
    labels, predictions = record.predictions(result)
    result = scored_anew(result, lambda head: confusion(labels, predictions[head], classes))
    labels = labels.astype(_smallest(classes))
    offsets = {
        f"offsets_{head}": ((predicted - labels.astype(np.int32)) % classes).astype(labels.dtype)
        for head, predicted in predictions.items()
    }
    metrics = json.dumps(_rounded(lines), sort_keys=True, separators=(",", ":"), allow_nan=False)
    content = {
        "schema": EXPORT_SCHEMA,
        "fingerprint": who["fingerprint"],
        "identity": who["identity"],
        "config": of_the_run(config),
        "result": result,
        "labels_digest": _digest(labels),
    }
    path = to / record.folder.parents[1].name / record.folder.parents[0].name / _file_name(who, result)
    return path, {
        to / "labels" / f"{_digest(labels)}.npz": _packed(labels=labels),
        path.with_suffix(".npz"): _packed(**offsets, metrics=np.frombuffer(metrics.encode(), dtype=np.uint8)),
        path: (_diffable(content) + "\n").encode(),
    }


def _file_name(who: dict[str, Any], result: dict[str, Any]) -> str:
    """The fingerprint, and where not a processor computed the run on what kind of device: both results are kept."""
    device = result["device"]
    return f"{who['fingerprint']}{'' if device == 'cpu' else f'-{device}'}.json"


def of_the_run(config: Any) -> dict[str, Any]:
    """What of the configuration describes the run and not its machine; a path keeps its last part."""
    return {key: config[key] for key in CONFIGURED} | {
        name: _without_folders(config[name]) for name in ("dataset", "backbone")
    }


def _without_folders(block: dict[str, Any]) -> dict[str, Any]:
    return {
        key: PurePath(value).name if isinstance(value, str) and ("/" in value or "\\" in value) else value
        for key, value in block.items()
    }


def _packed(**arrays: np.ndarray) -> bytes:
    """An ``.npz`` file; numpy writes no times into it, so equal arrays give equal bytes."""
    buffer = BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def _digest(labels: np.ndarray) -> str:
    return hashlib.sha256(labels.astype(f"<u{labels.dtype.itemsize}").tobytes()).hexdigest()[:16]


def _smallest(classes: int) -> np.dtype:
    return np.min_scalar_type(classes - 1)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{METRIC_DIGITS}g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value


def _diffable(value: Any, margin: str = "") -> str:
    """JSON with sorted keys, a line a key; a list stays on one line."""
    if not isinstance(value, dict) or not value:
        return json.dumps(value, sort_keys=True, allow_nan=False)
    inner = margin + " "
    lines = (f"{inner}{json.dumps(key)}: {_diffable(value[key], inner)}" for key in sorted(value))
    return "{\n" + ",\n".join(lines) + f"\n{margin}}}"
