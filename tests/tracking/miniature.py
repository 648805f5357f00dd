"""Records as training writes them, of three epochs and three classes, by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import whole_records
from torch import nn
from whole_records import IDENTITY, evaluation, whole_names, whole_result, whole_split

from csa.config.identity import fingerprint
from csa.tracking.mlflow.store import MlflowTracking
from csa.tracking.record import Record

WHO = IDENTITY | {"method": {"name": "csa"}}
FINGERPRINT, SPLIT_HASH = fingerprint(WHO), WHO["dataset"]["split"]
CONFIG = whole_records.CONFIG.replace(
    "{name: ce, schema: csa.config.schema.CrossEntropyConfig,",
    "{name: csa, schema: csa.config.schema.MethodConfig, delta: 0.8, primary_head: balanced,",
)


def mlflow_at(uri: str) -> MlflowTracking:
    target = "csa.tracking.mlflow.tracker.MlflowTracker"
    schema = "csa.tracking.mlflow.store.MlflowTracking"
    return MlflowTracking(name="mlflow", schema=schema, target=target, uri=uri, experiment="csa", model=None)


def line(epoch: int, **more: Any) -> dict[str, Any]:
    """A metrics line whose values follow from the epoch."""
    return {
        "stage": "train",
        "epoch": epoch,
        "lr": 0.1,
        "loss": 2.0 - epoch / 10,
        "bank_fill": epoch / 2,
        "head": "balanced",
        "heads": {
            "uniform": {"all": 50.0 + epoch, "balanced": 65.0, "many": 80.0, "medium": 50.0, "few": None},
            "balanced": {"all": 60.0 + epoch, "balanced": 65.0, "many": 70.0, "medium": 60.0, "few": None},
        },
        "images": 100,
        "seconds": 0.5,
        "evaluation_seconds": 0.25,
        **more,
    }


def begin(root: Path, epochs: int = 0, config: str = CONFIG) -> Record:
    record = Record(root / "outputs" / "dots_lt" / "csa" / f"ir10-tiny-delta0.8-s0-{FINGERPRINT}")
    record.begin(config, WHO, FINGERPRINT)
    record.write_metrics(line(epoch) for epoch in range(epochs))
    return record


def result(epochs: int = 3, **more: Any) -> dict[str, Any]:
    def scores(offset: float) -> dict[str, Any]:
        last = evaluation(all=offset + epochs - 1, balanced=65.0, many=70.0, medium=60.0, few=None, ece=4.5)
        last |= {"macro_f1": 55.0, "g_mean": 50.0, "per_class": [90.0, 60.0, None]}
        return {"last": last, "best_on_test": {**last, "all": offset + 9, "epoch": 1}}

    return whole_result(
        fingerprint=FINGERPRINT,
        run=whole_names(method="csa"),
        head="balanced",
        heads={"uniform": scores(50.0), "balanced": scores(60.0)},
        training_seconds=1.5,
        git_revision="abc123",
        git_dirty=True,
        split=whole_split(classes=["rare", "common", "odd"], by_rank={"many": [1], "medium": [2], "few": [0]}),
        **more,
    )


def finish(record: Record, **more: Any) -> None:
    predicted = np.array([0, 0, 0, 1, 1, 1, 1, 1, 0, 1, 2, 2])
    arrays = {"labels": np.repeat([0, 1, 2], 4), "predictions_uniform": predicted, "predictions_balanced": predicted}
    record.checkpoint.write_bytes(b"weights")
    record.finish(result(**more), arrays)


class Brightness(nn.Module):
    """Logits are the mean brightness times a weight of each class."""

    def __init__(self) -> None:
        super().__init__()
        self.image_shape = (3, 4, 4)
        self.weight = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((1, 2, 3)).unsqueeze(1) * self.weight


def brightness(folder: Path) -> Brightness:
    assert json.loads((folder / "result.json").read_text())["status"] == "done"
    return Brightness().eval()
