"""A method on a labelled set of images: the logits of every head, their scores, and what a record says of them.

The latter is result.json and test_outputs.npz.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from csa.metrics import CALIBRATION_BINS, PARTS, Scores, calibration_bins, calibration_error, completed, scores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import Tensor

    from csa.config.schema import Config
    from csa.data.batch import Batch
    from csa.data.split import Split
    from csa.methods.method import Method
    from csa.metrics import ShotGroups
    from csa.training.distributed import ProcessGroup
    from csa.training.machine import Machine
    from csa.training.state import History, TrainState


EVALUATION_BATCH = 250
"""Images of one forward pass in evaluation; the result does not depend on it."""
MOST_TEMPERATURE = 10.0
"""A temperature is between its inverse and this."""


class NotFiniteLogitsError(Exception):
    """A head's logits are not finite; the message names it."""


class Evaluated(NamedTuple):
    """Of each head the scores on all processes' images; logits [N, K] and labels [N] of this one's."""

    scores: dict[str, Scores]
    logits: dict[str, Tensor]
    labels: Tensor


def evaluate(state: TrainState, batches: Iterable[Batch], split: Split) -> Evaluated:
    """The network that would be kept if training ended now. Raises NotFiniteError where a logit is not finite."""
    with state.as_kept():
        logits, labels = head_logits(state.method, state.launcher.logits, batches)
    groups = vars(split.by_rank), vars(split.by_count)
    try:
        scores = head_scores(state.method, logits, labels, *groups, state.machine.group)
    except NotFiniteLogitsError as error:
        raise state.not_finite(str(error)) from error
    return Evaluated(scores, logits, labels)


@torch.no_grad()
def head_logits(
    method: Method, logits: Callable[[Tensor], dict[str, Tensor]], batches: Iterable[Batch]
) -> tuple[dict[str, Tensor], Tensor]:
    """Logits of each head, [N, K] float32, and the labels [N], both on the device; of this process's batches.

    logits: how this method computes those of a batch of images, as ``plain_logits`` or faster.
    """
    method.eval()
    parts: dict[str, list[Tensor]] = {head: [] for head in method.heads}
    labels = []
    for batch in batches:
        outputs = logits(batch.images)
        for head in method.heads:
            parts[head].append(outputs[head])
        labels.append(batch.labels)
    return {head: torch.cat(part) for head, part in parts.items()}, torch.cat(labels)


def plain_logits(method: Method, machine: Machine) -> Callable[[Tensor], dict[str, Tensor]]:
    """Of each head of a method in evaluation mode, float32 [B, K]."""

    def logits(images: Tensor) -> dict[str, Tensor]:
        with torch.no_grad(), machine.autocast():
            outputs = method.logits(images)
        return {head: outputs[head].float() for head in method.heads}

    return logits


@torch.no_grad()
def head_scores(
    method: Method,
    logits: dict[str, Tensor],
    labels: Tensor,
    by_rank: ShotGroups,
    by_count: ShotGroups,
    group: ProcessGroup,
) -> dict[str, Scores]:
    """Scores of each head's logits [N, K] against labels [N], of all processes' images.

    All is counted on the device; the counts of all heads come to the host together.

    Raises:
        NotFiniteLogitsError: the logits of an image have no finite maximum.
    """
    counted = group.summed(torch.stack([counts(method, outputs, labels) for outputs in logits.values()]))
    found = {}
    for head, row in zip(logits, counted.cpu().numpy(), strict=True):
        classes = logits[head].shape[1]
        confusion, sums = row[: classes**2].reshape(classes, classes), row[classes**2 :]
        parts, right, (not_finite,) = np.split(sums, [CALIBRATION_BINS, 2 * CALIBRATION_BINS])
        if not_finite:
            raise NotFiniteLogitsError(f"a logit of head {head!r} is not finite")
        ece = calibration_error(parts, right, int(confusion.sum()))
        found[head] = scores(confusion, ece, by_rank, by_count)
    return found


def predict(method: Method, logits: Tensor) -> tuple[Tensor, Tensor]:
    """The predicted class of each image [N] and its probability [N], from a head's logits [N, K]."""
    predicted = logits.argmax(1)
    return predicted, method.probabilities(logits).gather(1, predicted[:, None])[:, 0]


@torch.no_grad()
def best_temperature(method: Method, logits: Tensor, labels: Tensor) -> float:
    """By which the logits [N, K] of validation images are to be divided to make their labels likeliest.

    Temperature scaling (Guo et al. 2017). The likelihood is concave in 1/T, so it has one peak; where that
    lies beyond ``MOST_TEMPERATURE`` or its inverse, as where every image is right, this is the answer.
    """
    from scipy.optimize import minimize_scalar  # type: ignore[import-untyped]

    values, known = logits.cpu().double(), labels.cpu()

    def loss(exponent: float) -> float:
        return -float(method.log_likelihood(values / math.exp(exponent), known).mean())

    most = math.log(MOST_TEMPERATURE)
    return math.exp(minimize_scalar(loss, bounds=(-most, most), method="bounded").x)


def counts(method: Method, logits: Tensor, labels: Tensor) -> Tensor:
    """int64 [K * K + 2 * bins + 1]: the confusion matrix; of each bin the sum of confidences, and the right images.

    At last, of how many images the logits are not finite. Whole numbers, so that sums do not depend on the order in
    which a device adds.
    """
    classes = logits.shape[1]
    predicted, confidence = predict(method, logits)
    parts = (confidence * PARTS).long()
    right = (predicted == labels).long()
    bins = calibration_bins(parts)

    def summed(indices: Tensor, values: Tensor, size: int) -> Tensor:
        return values.new_zeros(size).scatter_add_(0, indices, values)

    return torch.cat(
        [
            summed(labels * classes + predicted, torch.ones_like(right), classes**2),
            summed(bins, parts, CALIBRATION_BINS),
            summed(bins, right, CALIBRATION_BINS),
            (~logits.amax(1).isfinite()).sum()[None],
        ]
    )


# --- what a record says ---------------------------------------------------------------------


@dataclass
class Outcome:
    """The trained method's last evaluation; holdout, temperatures: on the validation images, empty without any.

    step_mode: how the steps of the last stage were launched.
    """

    scores: dict[str, Scores]
    holdout: dict[str, Scores]
    temperatures: dict[str, float]
    logits: dict[str, Tensor]
    labels: Tensor
    history: History
    step_mode: str


def outcome(state: TrainState, tested: Evaluated, validated: Evaluated | None) -> Outcome:
    """Of all processes, which take part in it."""
    joined = state.machine.group.joined
    temperatures = {}
    if validated is not None:
        known = joined(validated.labels)
        temperatures = {
            head: best_temperature(state.method, joined(logits), known) for head, logits in validated.logits.items()
        }
    return Outcome(
        tested.scores,
        {} if validated is None else validated.scores,
        temperatures,
        {head: joined(logits) for head, logits in tested.logits.items()},
        joined(tested.labels),
        state.history,
        state.launcher.mode,
    )


def result(config: Config, fingerprint: str, split: Split, method: Method, outcome: Outcome) -> dict[str, Any]:
    """The outcome as plain values; accuracies in percent. The primary head is the result, at the last epoch.

    ``last`` is of the network that is kept: under ``chosen`` that of another epoch (of each stage, from 0).
    """
    history = outcome.history
    lines = history.lines
    own = lines[history.reused_epochs :]
    training_seconds = sum(line["seconds"] for line in own)
    primary = outcome.scores[method.primary_head]
    return {
        "status": "done",
        "fingerprint": fingerprint,
        **primary.summary(),
        "head": method.primary_head,
        "collapsed": primary.predicted_classes == 1,
        **({"chosen": {"rule": config.protocol.choose, "epochs": history.chosen}} if history.chosen else {}),
        "heads": {
            head: {
                "last": scores.as_dict(),
                # Completed, because a checkpoint or a shared stage may be from before some metrics.
                "best_on_test": completed(history.best[head], vars(split.by_rank), vars(split.by_count)),
                **({"holdout": _on_validation_images(outcome, head)} if outcome.holdout else {}),
            }
            for head, scores in outcome.scores.items()
        },
        "epochs": len(lines),
        "reused_epochs": history.reused_epochs,
        "seconds": training_seconds + sum(line["evaluation_seconds"] for line in own),
        "training_seconds": training_seconds,
        "images_per_second": sum(line["images"] for line in own) / training_seconds if own else None,
        "step_mode": outcome.step_mode,
        "run": {
            "dataset": config.dataset.name,
            "method": config.method.name,
            "backbone": config.backbone.name,
            "protocol": config.protocol.name,
            "sampler": config.sampler.name,
            "seed": config.seed,
            "variant": config.variant,
        },
        "split": describe_split(split),
    }


def _on_validation_images(outcome: Outcome, head: str) -> dict[str, Any]:
    return {**outcome.holdout[head].as_dict(), "temperature": outcome.temperatures[head]}


def describe_split(split: Split) -> dict[str, Any]:
    return {
        "hash": split.hash,
        "classes": list(split.classes),
        "counts": list(split.counts),
        "image_shape": list(split.image_shape),
        "mean": list(split.mean),
        "std": list(split.std),
        "total": sum(split.counts),
        "test_images": len(split.test_labels),
        "holdout_images": len(split.holdout_labels),
        "by_rank": split.by_rank.as_lists(),
        "by_count": split.by_count.as_lists(),
    }


def test_outputs(method: Method, outcome: Outcome) -> dict[str, np.ndarray]:
    """Labels [N]; of each head logits (fp16) [N, K], predictions [N], their probabilities [N], confusion [K, K].

    Predictions and probabilities are those of the full-precision logits: fp16 may tie where fp32 does
    not, and every reported number must be recomputable exactly.
    """
    arrays: dict[str, np.ndarray] = {"labels": outcome.labels.cpu().numpy().astype(np.int32)}
    for head, logits in outcome.logits.items():
        predicted, confidence = predict(method, logits)
        arrays[f"logits_{head}"] = logits.half().cpu().numpy()
        arrays[f"predictions_{head}"] = predicted.cpu().numpy().astype(np.int32)
        arrays[f"confidence_{head}"] = confidence.cpu().numpy()
        arrays[f"confusion_{head}"] = np.asarray(outcome.scores[head].confusion, dtype=np.int32)
    return arrays
