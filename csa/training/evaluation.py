"""A method on a labelled set of images: the logits of every head, and their scores."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from csa.metrics import CALIBRATION_BINS, PARTS, Scores, calibration_bins, calibration_error, scores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import Tensor

    from csa.data.batch import Batch
    from csa.data.split import Split
    from csa.methods.method import Method
    from csa.metrics import ShotGroups
    from csa.training.distributed import ProcessGroup
    from csa.training.machine import Machine
    from csa.training.state import TrainState


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

    def summed(places: Tensor, values: Tensor, size: int) -> Tensor:
        return values.new_zeros(size).scatter_add_(0, places, values)

    return torch.cat(
        [
            summed(labels * classes + predicted, torch.ones_like(right), classes**2),
            summed(bins, parts, CALIBRATION_BINS),
            summed(bins, right, CALIBRATION_BINS),
            (~logits.amax(1).isfinite()).sum()[None],
        ]
    )
