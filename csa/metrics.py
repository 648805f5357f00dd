"""What is measured of one head on labelled images, from counts. Imports no torch: records are scored here too.

Everything but the calibration error follows from the confusion matrix. Accuracies of several classes are means of the
classes' accuracies; classes without test images are left out of every mean, and a group of such classes has none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from statistics import fmean
from typing import Any

import numpy as np

from csa.config.schema import number

GROUPS = ("many", "medium", "few")
CALIBRATION_BINS = 15
PARTS = 2**40
"""Of a confidence of 1. Confidences are added up as whole parts: the same sum in any order, on any number of devices.

Exact for the largest of up to 131,072 softmax probabilities in fp32, in a sum over up to eight million images.
"""

ShotGroups = Mapping[str, Sequence[int]]
"""The classes of each group, by ``GROUPS``."""


def percent() -> Any:
    return number(at_least=0, at_most=100)


@dataclass(frozen=True, kw_only=True)
class Summary:
    """In percent.

    all: share of right images. balanced: mean of the class accuracies, as scikit-learn's balanced_accuracy_score.
    many, medium, few: that of the groups by class rank (the paper's rule). macro_f1: mean of the classes' F1, 0 for a
    class never predicted rightly; where every class has images it is scikit-learn's f1_score(average="macro",
    zero_division=0); None in old records. g_mean: geometric mean of the class accuracies, as imbalanced-learn's
    geometric_mean_score; 0 as soon as one class is never right.
    """

    all: float = percent()
    balanced: float = percent()
    many: float | None = percent()
    medium: float | None = percent()
    few: float | None = percent()
    macro_f1: float | None = percent()
    g_mean: float = percent()


SUMMARY = tuple(field.name for field in fields(Summary))


@dataclass(frozen=True, kw_only=True)
class Scores(Summary):
    """In percent, but for the counts.

    by_count: mean accuracy of the classes of the groups by training images. per_class: accuracy of each, [K].
    ece: expected calibration error, bins of equal width (Guo et al. 2017). confusion: [K, K] counts, row = label,
    column = prediction.
    """

    by_count: dict[str, float | None] = percent()  # noqa: RUF009 (no default, metadata)
    per_class: list[float | None] = percent()  # noqa: RUF009
    ece: float = percent()
    predicted_classes: int = number(at_least=0)
    confusion: np.ndarray

    def summary(self) -> dict[str, float | None]:
        return {name: getattr(self, name) for name in SUMMARY}

    def as_dict(self) -> dict[str, Any]:
        """All but the confusion matrix, which lies with the test outputs."""
        return {name: value for name, value in vars(self).items() if name != "confusion"}


def scores(confusion: np.ndarray, ece: float, by_rank: ShotGroups, by_count: ShotGroups) -> Scores:
    """Of the counts of at least one image; confusion, ece: as in ``Scores``."""
    right, images, predicted = confusion.diagonal().tolist(), confusion.sum(1).tolist(), confusion.sum(0).tolist()
    per_class = [100 * hits / seen if seen else None for hits, seen in zip(right, images, strict=True)]
    f1 = [2 * hits / (seen + guesses) for hits, seen, guesses in zip(right, images, predicted, strict=True) if seen]
    return Scores(
        all=100 * sum(right) / sum(images),
        macro_f1=100 * fmean(f1),
        per_class=per_class,
        ece=ece,
        predicted_classes=sum(guesses > 0 for guesses in predicted),
        confusion=confusion,
        **class_means(per_class, by_rank, by_count),
    )


def confusion(labels: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """Counts [K, K], row = label, column = prediction."""
    indices = labels.astype(np.int64) * classes + predictions
    return np.bincount(indices, minlength=classes**2).reshape(classes, classes)


def class_means(per_class: Sequence[float | None], by_rank: ShotGroups, by_count: ShotGroups) -> dict[str, Any]:
    """Those of ``Scores`` that follow from the accuracy of each class alone."""
    every = [accuracy for accuracy in per_class if accuracy is not None]
    return {
        "balanced": fmean(every),
        "g_mean": 100 * math.exp(fmean(math.log(accuracy / 100) for accuracy in every)) if all(every) else 0.0,
        **{name: _mean(per_class, by_rank[name]) for name in GROUPS},
        "by_count": {name: _mean(per_class, by_count[name]) for name in GROUPS},
    }


def completed(scores: Mapping[str, Any], by_rank: ShotGroups, by_count: ShotGroups) -> dict[str, Any]:
    """Recorded scores of any version as ``Scores`` has them now; None where the confusion matrix would be needed."""
    return {"macro_f1": None, **scores, **class_means(scores["per_class"], by_rank, by_count)}


def rescored(result: Mapping[str, Any], confusion: Callable[[str], np.ndarray]) -> dict[str, Any]:
    """A recorded result of any version with what this module makes of it. confusion: of a head, at the last epoch.

    The last epoch's scores follow from the confusion matrix but for the calibration error, which stays. Of the best
    epoch and the validation images only class accuracies are recorded, so that old results have no macro F1 of them.

    Raises:
        ValueError: the recorded accuracies are not those of the confusion matrix.
    """
    groups = result["split"]["by_rank"], result["split"]["by_count"]
    heads = {}
    for head, evaluations in result["heads"].items():
        said, found = evaluations["last"], scores(confusion(head), evaluations["last"]["ece"], *groups).as_dict()
        if said["all"] != found["all"]:
            raise ValueError(f"head {head!r}: {said['all']} % recorded, {found['all']} % predicted")
        if said["per_class"] != found["per_class"]:
            raise ValueError(f"head {head!r}: the class accuracies recorded are not those predicted")
        heads[head] = {name: completed(one, *groups) for name, one in evaluations.items()} | {"last": found}
    return {**result, **{name: heads[result["head"]]["last"][name] for name in SUMMARY}, "heads": heads}


def by_size(counts: Sequence[int]) -> list[int]:
    """Classes, that of most training images first."""
    return sorted(range(len(counts)), key=lambda k: (-counts[k], k))


def _mean(per_class: Sequence[float | None], classes: Sequence[int]) -> float | None:
    known = [accuracy for k in classes if (accuracy := per_class[k]) is not None]
    return fmean(known) if known else None


def softmax_confidence(logits: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Probability of each predicted class, float64 [N], of logits [N, K] that were recorded as fp16."""
    largest = float(np.finfo(np.float16).max)  # larger ones were recorded as infinite
    finite = np.nan_to_num(logits.astype(np.float64), posinf=largest, neginf=-largest)
    shifted = np.exp(finite - finite.max(1, keepdims=True))
    confidence: np.ndarray = np.take_along_axis(shifted, predictions[:, None], 1)[:, 0] / shifted.sum(1)
    return confidence


def calibration_bins(parts: Any) -> Any:
    """The bin of each confidence, given in whole ``PARTS``: an array or a tensor, as is the answer.

    An edge belongs to the bin below it.
    """
    return ((CALIBRATION_BINS * parts - 1) // PARTS).clip(0, CALIBRATION_BINS - 1)


def calibration_error(parts: np.ndarray, right: np.ndarray, images: int) -> float:
    """Expected calibration error in percent.

    parts, right: of each bin, the sum of its images' confidences in whole ``PARTS``, and how many are right. A bin's
    share of the images times its gap is the sum of its images' gaps over all images.
    """
    return 100 * int(np.abs(parts - PARTS * right).sum()) / (PARTS * images)
