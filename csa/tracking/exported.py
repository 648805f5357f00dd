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
from dataclasses import fields
from functools import cached_property, lru_cache
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from csa.config.faults import Fault, RecordError, UserError
from csa.metrics import confusion, rescored
from csa.tracking import sweeps
from csa.tracking.description import (
    SCHEMA,
    RunConfig,
    agreement_faults,
    check_predictions,
    config_faults,
    identity_faults,
    line_faults,
    reading,
    refuse,
    result_faults,
)
from csa.tracking.files import npz, parse_json, read_json, write_bytes
from csa.tracking.run import Run

if TYPE_CHECKING:
    from typing import Self

    from csa.tracking.run import State

EXPORT_SCHEMA = 2
READ_SCHEMAS = (1, EXPORT_SCHEMA)
METRIC_DIGITS = 6
CONFIGURED = [field.name for field in fields(RunConfig)]
AGAIN = "export the run again with python -m csa.records mode=export"


class Exported(NamedTuple):
    """outcome: written; unchanged: the same bytes lay there; kept: others did, and stay."""

    path: Path
    outcome: Literal["written", "unchanged", "kept"]


# --- reading --------------------------------------------------------------------------------


class ExportedRun(Run):
    """A run that is read from its exported ``.json`` and ``.npz``; whatever is wrong or missing is a RecordError.

    config: without paths, tracking and what else is the machine's; metrics: numbers to six significant digits; neither
    logits nor a checkpoint. path: its ``.json``.
    """

    has_logits = False

    def __init__(self, path: Path) -> None:
        super().__init__(path.parent, str(path))
        self.path = path

    @property
    def state(self) -> State:
        return "done"

    @cached_property
    def config(self) -> dict[str, Any]:
        config: dict[str, Any] = self._who["config"]
        return config

    @cached_property
    def result(self) -> dict[str, Any]:
        """Scored anew from the predictions."""
        result = self._who["result"]
        offsets = {name.removeprefix("offsets_"): array for name, array in self._arrays.items() if name != "metrics"}
        with reading(self.path, AGAIN):
            check_predictions(result, self.labels, offsets)
            classes = len(result["split"]["classes"])
            scored = rescored(result, lambda head: confusion(self.labels, self.predictions(head), classes))
        return scored | {"schema": SCHEMA}

    def metrics(self) -> list[dict[str, Any]]:
        with reading(self.path.with_suffix(".npz"), AGAIN):
            lines: list[dict[str, Any]] = parse_json(self._arrays["metrics"].tobytes())
        refuse(self.path.with_suffix(".npz"), line_faults(lines), AGAIN)
        return lines

    @cached_property
    def labels(self) -> np.ndarray:
        return _labels(self.path.parents[2] / "labels" / f"{self._who['labels_digest']}.npz")

    def predictions(self, head: str) -> np.ndarray:
        predictions: np.ndarray = self._arrays[f"offsets_{head}"] + self.labels
        predictions %= len(self._who["result"]["split"]["classes"])
        return predictions

    def rescored(self) -> dict[str, Any]:
        return self.result

    def checked(self) -> Self:
        _ = self.result, self.metrics()
        return self

    @cached_property
    def _who(self) -> dict[str, Any]:
        """The whole ``.json``."""
        with reading(self.path, AGAIN):
            content: dict[str, Any] = read_json(self.path)
            if content["schema"] not in READ_SCHEMAS:
                problem = f"has schema {content['schema']}, this version reads {EXPORT_SCHEMA}"
                raise RecordError(self.path, problem, AGAIN)
            config, result, _ = (content[name] for name in ("config", "result", "labels_digest"))
            refuse(self.path, [*identity_faults(content), *config_faults(config), *result_faults(result)], AGAIN)
            refuse(self.path, agreement_faults(content, config, result), AGAIN)
        return content

    def _output(self, name: str) -> np.ndarray:
        problem = f"has no {name.partition('_')[0]} in {self.where}, which keeps predictions alone"
        raise UserError(Fault("run", self.fingerprint, problem, "a run folder"))

    @cached_property
    def _arrays(self) -> dict[str, np.ndarray]:
        return _read_arrays(self.path.with_suffix(".npz"))


def exported_paths(folder: Path, fingerprint: str = "") -> list[Path]:
    """The records below ``folder``, or those of one run: by path, a run's on a GPU before that on the processor."""
    of_sweeps = {sweep / sweeps.NAME for sweep in sweeps.folders(folder)}  # which lie in a folder of runs
    found = set(folder.glob(f"*/*/{fingerprint}*.json")) - of_sweeps
    return sorted(found, key=lambda path: (path.parent, path.stem.partition("-")[0], "-" not in path.stem, path.stem))


@lru_cache(maxsize=16)
def _labels(path: Path) -> np.ndarray:
    """int32 [N], read-only."""
    with reading(path, AGAIN):
        labels = _read_arrays(path)["labels"]
    if _digest(labels) != path.stem:
        raise RecordError(path, "does not hold the labels that its name stands for", AGAIN)
    labels = labels.astype(np.int32)
    labels.flags.writeable = False
    return labels


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    with reading(path, AGAIN), np.load(path, allow_pickle=False) as file:
        return dict(file)


# --- writing --------------------------------------------------------------------------------


def export(run: Run, to: Path, *, replace: bool = False) -> Exported:
    """Write a finished run below ``to``.

    A record that lies there already stays, unless it is damaged, of an older schema, or ``replace``.

    Raises:
        RecordError: damaged, of another schema, or the predictions do not give the accuracies.
        FileNotFoundError: a file is missing.
    """
    path, files = _files(run, to)
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
        ExportedRun(path).checked()
    except RecordError:
        return False
    return True


def _files(run: Run, to: Path) -> tuple[Path, dict[Path, bytes]]:
    """The run's ``.json``, and what belongs into each of its files; the ``.json``, which stands for it, last."""
    result = run.rescored()
    classes, device = len(result["split"]["classes"]), result["device"]
    labels = run.labels.astype(np.min_scalar_type(classes - 1))
    offsets = {
        f"offsets_{head}": ((run.predictions(head) - run.labels) % classes).astype(labels.dtype)
        for head in result["heads"]
    }
    metrics = json.dumps(_rounded(run.metrics()), sort_keys=True, separators=(",", ":"), allow_nan=False)
    content = {
        "schema": EXPORT_SCHEMA,
        "fingerprint": run.fingerprint,
        "identity": run.identity,
        "config": of_the_run(run.config),
        "result": result,
        "labels_digest": _digest(labels),
    }
    *_, dataset, method, _ = run.folder.parts
    name = run.fingerprint if device == "cpu" else f"{run.fingerprint}-{device}"  # both results are kept
    path = to / dataset / method / f"{name}.json"
    return path, {
        to / "labels" / f"{_digest(labels)}.npz": npz(labels=labels),
        path.with_suffix(".npz"): npz(**offsets, metrics=np.frombuffer(metrics.encode(), dtype=np.uint8)),
        path: (_diffable(content) + "\n").encode(),
    }


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


def _digest(labels: np.ndarray) -> str:
    return hashlib.sha256(labels.astype(f"<u{labels.dtype.itemsize}").tobytes()).hexdigest()[:16]


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
