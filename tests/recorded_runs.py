"""Recorded runs for tests of what is done with them: real ones of seconds, and handmade ones of none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from csa.config.composition import tree
from csa.config.identity import fingerprint, identity, run_folder
from csa.config.typed import build
from csa.console import PlainConsole
from csa.data.dataset import load_split
from csa.metrics import scores
from csa.tracking.record import Record

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
    from csa.training.session import train_and_record

    with tree("config") as composer:
        every = [composer.parse(word) for word in (*WORDS, f"output_root={output_root}", *words)]
        config = build(composer.compose(every).config)
    split = load_split(config.dataset, config.data_dir, download=False)
    who = identity(config, split.hash)
    record = Record(run_folder(config, fingerprint(who)))
    train_and_record(config, who, split, record, PlainConsole(quiet=True))
    return record


def begin(output_root: Path, fingerprint: str, method: str = "ce", seed: int = 0) -> Record:
    """A run that was started and is not being trained."""
    record = Record(output_root / "dots_lt" / method / f"ir10-tiny-s{seed}-{fingerprint}")
    config = (
        "dataset: {name: dots_lt, path: /home/someone/secret/dots.npz, mean: null}\n"
        f"sampler: {{name: uniform}}\nmethod: {{name: {method}}}\nbackbone: {{name: lenet}}\nprotocol: {{epochs: 2}}\n"
        f"tracking: {{uri: 'http://someone:secret@host'}}\ndata_dir: /home/someone\noutput_root: {output_root}\n"
        f"delta: 0.8\nseed: {seed}\nvariant: ''\n"
    )
    record.begin(config, {"dataset": {"name": "dots_lt"}, "method": {"name": method}, "seed": seed}, fingerprint)
    record.write_metrics([{"epoch": 0, "loss": 1.23456789012, "heads": {"only": {"all": 25.0, "few": None}}}])
    return record


def finish(record: Record, predictions: np.ndarray | None = None, classes: int = 4, **more: Any) -> Record:
    """Labels 0, 1, 2, 3, 0, ... and predictions of a head ``only``."""
    predictions = np.array([0, 1, 2, 2]) if predictions is None else predictions
    labels = np.arange(len(predictions), dtype=np.int32) % classes
    confusion = np.bincount(labels * classes + predictions, minlength=classes**2).reshape(classes, classes)
    groups = {"many": [0], "medium": [1], "few": list(range(2, classes))}
    last = scores(confusion, 5.0, groups, groups)
    result = {
        "fingerprint": record.folder.name.rpartition("-")[2],
        **last.summary(),
        "head": "only",
        "device": "cpu",
        "heads": {"only": {"last": last.as_dict()}},
        "split": {"classes": [f"class {k}" for k in range(classes)], "by_rank": groups, "by_count": groups},
        **more,
    }
    record.checkpoint.write_bytes(b"weights")
    record.finish(result, {"labels": labels, "predictions_only": predictions.astype(np.int32)})
    return record
