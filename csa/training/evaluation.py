"""A method on a labelled set of images: the logits of every head, and their scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from csa.training.metrics import Scores, scores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import Tensor

    from csa.data.batch import Batch
    from csa.data.split import Groups
    from csa.methods.method import Method
    from csa.training.machine import Machine
    from csa.training.together import Together


@torch.no_grad()
def head_logits(
    method: Method, logits: Callable[[Tensor], dict[str, Tensor]], batches: Iterable[Batch], together: Together
) -> tuple[dict[str, Tensor], Tensor]:
    """Logits of each head, [N, K] float32, and the labels [N], both on the device; of all processes' batches.

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
    return (
        {head: together.joined(torch.cat(part)) for head, part in parts.items()},
        together.joined(torch.cat(labels)),
    )


def plain_logits(method: Method, machine: Machine) -> Callable[[Tensor], dict[str, Tensor]]:
    """Of each head of a method in evaluation mode, float32 [B, K]."""

    def logits(images: Tensor) -> dict[str, Tensor]:
        with torch.no_grad(), machine.autocast():
            outputs = method.logits(images)
        return {head: outputs[head].float() for head in method.heads}

    return logits


def head_scores(logits: dict[str, Tensor], labels: Tensor, by_rank: Groups, by_count: Groups) -> dict[str, Scores]:
    return {head: scores(outputs, labels, by_rank, by_count) for head, outputs in logits.items()}
