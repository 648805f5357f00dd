"""Recorded runs for tests of what is done with them: real ones of seconds, and handmade ones of none."""

from __future__ import annotations

from functools import cache
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from composed import config_of
from whole_records import CONFIG, IDENTITY, LINE, whole_names, whole_result, whole_split

from csa.config.identity import fingerprint, identity, run_folder
from csa.console import PlainConsole
from csa.data.dataset import load_split
from csa.metrics import scores
from csa.tracking.files import read_json
from csa.tracking.record import Record

if TYPE_CHECKING:
    from csa.config.schema import Config
    from csa.data.split import Split

WORDS = (
    "protocol.epochs=2",
    "protocol.batch_size=16",
    "dataset.max_per_class=40",
    "dataset.imbalance_ratio=4",
    "dataset.test_per_class=20",
    "runtime.device=cpu",
    "runtime.threads=1",
    "runtime.progress=false",
    "tracking=none",
)


def train(output_root: Path, *words: str) -> Record:
    """A finished run on scikit-learn's digits."""
    return start(config_of(*WORDS, f"output_root={output_root}", *words))


SPLITS: dict[str, Split] = {}
"""Loading one takes as long as a tiny run on it, and training changes nothing of it."""


def start(config: Config) -> Record:
    """The run in this process."""
    from csa.training.session import train_and_record

    known = f"{config.dataset!r} in {config.data_dir}"
    if known not in SPLITS:
        SPLITS[known] = load_split(config.dataset, config.data_dir, download=False)
    split = SPLITS[known]
    who = identity(config, split.hash)
    record = Record(run_folder(config, fingerprint(who)))
    train_and_record(config, who, split, record, PlainConsole(quiet=True))
    return record


WHO: dict[str, dict[str, Any]] = {}


@cache
def named(start: str, method: str = "ce", **more: Any) -> str:
    """A fingerprint that begins with two digits, of an identity that ``begin`` then writes; more: what is in that."""
    tries = (IDENTITY | {"results_version": number, "method": {"name": method}} | more for number in count())
    who = next(one for one in tries if fingerprint(one).startswith(start))
    WHO[fingerprint(who)] = who
    return fingerprint(who)


def begin(output_root: Path, name: str) -> Record:
    """A run that was started and is not being trained. name: a fingerprint, best one that was ``named``."""
    who = WHO.get(name, IDENTITY)
    method, seed, variant = who["method"]["name"], who["seed"], who["variant"]
    record = Record(output_root / "dots_lt" / method / f"ir10-tiny-s{seed}-{name}")
    config = CONFIG.replace("method: {name: ce", f"method: {{name: {method}").replace("seed: 0", f"seed: {seed}")
    record.begin(config.replace("variant: ''", f"variant: '{variant}'"), who, name)
    record.write_metrics([LINE | {"loss": 1.23456789012, "heads": {"only": {"all": 25.0, "few": None}}}])
    return record


def finish(record: Record, predictions: np.ndarray | None = None, classes: int = 4, **more: Any) -> Record:
    """Labels 0, 1, 2, 3, 0, ... and predictions of a head ``only``."""
    predictions = np.array([0, 1, 2, 2]) if predictions is None else predictions
    labels = np.arange(len(predictions), dtype=np.int32) % classes
    confusion = np.bincount(labels * classes + predictions, minlength=classes**2).reshape(classes, classes)
    split = whole_split([9] * classes)
    last = scores(confusion, 5.0, split["by_rank"], split["by_count"])
    who = read_json(record.folder / "identity.json")
    identity = who["identity"]
    result = whole_result(
        fingerprint=who["fingerprint"],
        **last.summary(),
        collapsed=last.predicted_classes == 1,
        run=whole_names(method=identity["method"]["name"], seed=identity["seed"], variant=identity["variant"]),
        heads={"only": {"last": last.as_dict(), "best_on_test": last.as_dict() | {"epoch": 0}}},
        split=split,
    )
    result |= more
    record.checkpoint.write_bytes(b"weights")
    record.finish(result, {"labels": labels, "predictions_only": predictions.astype(np.int32)})
    return record
