"""What is measured of one head on one labelled set of images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from torch import Tensor

    from csa.data.split import Groups

CALIBRATION_BINS = 15


@dataclass(frozen=True)
class Scores:
    """Accuracies in percent. ``many``, ``medium``, ``few`` are by class rank (the paper's rule).

    A group's accuracy is its correct images over its images, like ``all``; on a balanced test set
    that equals the mean of its classes' accuracies. A group without images has none (None).
    confusion: [K][K] counts, row = label, column = prediction. ece: expected calibration error in
    percent, 15 equal-width bins (Guo et al. 2017).
    """

    all: float
    many: float | None
    medium: float | None
    few: float | None
    by_count: dict[str, float | None]
    per_class: list[float | None]
    ece: float
    predicted_classes: int
    confusion: list[list[int]]

    def summary(self) -> dict[str, float | None]:
        return {"all": self.all, "many": self.many, "medium": self.medium, "few": self.few}

    def as_dict(self) -> dict[str, Any]:
        """All but the confusion matrix, which lies with the test outputs."""
        return {name: value for name, value in vars(self).items() if name != "confusion"}


def scores(logits: Tensor, labels: Tensor, by_rank: Groups, by_count: Groups) -> Scores:
    """Scores of logits [N, K] (float32) against labels [N]; one transfer to the host."""
    classes = logits.shape[1]
    told = torch.stack([labels.double(), logits.argmax(1).double(), logits.softmax(1).amax(1).double()]).cpu().numpy()
    truth, chosen = told[:2].astype(np.int64)
    matrix = np.bincount(truth * classes + chosen, minlength=classes**2).reshape(classes, classes)
    confusion: list[list[int]] = matrix.tolist()
    images = [sum(row) for row in confusion]
    correct = [confusion[k][k] for k in range(classes)]
    everyone = tuple(range(classes))
    total = _accuracy(correct, images, everyone)
    assert total is not None, "a test set has images"
    return Scores(
        all=total,
        many=_accuracy(correct, images, by_rank.many),
        medium=_accuracy(correct, images, by_rank.medium),
        few=_accuracy(correct, images, by_rank.few),
        by_count={name: _accuracy(correct, images, getattr(by_count, name)) for name in ("many", "medium", "few")},
        per_class=[_accuracy(correct, images, (k,)) for k in everyone],
        ece=100 * calibration_error(told[2], truth == chosen),
        predicted_classes=sum(any(row[k] for row in confusion) for k in everyone),
        confusion=confusion,
    )


def calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """Expected calibration error in [0, 1] of probabilities [N] of what was predicted, and whether it was right [N].

    A bin's share of the images times its gap is the sum of its images' gaps over N.
    """
    gaps = np.bincount(calibration_bins(confidence), weights=confidence - right)
    return float(np.abs(gaps).sum() / len(confidence))


def calibration_bins(confidence: np.ndarray) -> np.ndarray:
    """The bin of each probability; an edge belongs to the bin below it."""
    bins: np.ndarray = np.clip(np.ceil(confidence * CALIBRATION_BINS).astype(np.int64) - 1, 0, CALIBRATION_BINS - 1)
    return bins


def _accuracy(correct: list[int], images: list[int], classes: tuple[int, ...]) -> float | None:
    seen = sum(images[k] for k in classes)
    return 100 * sum(correct[k] for k in classes) / seen if seen else None
