"""A method on a labelled set of images: the logits of every head, and their scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from csa.training.metrics import Scores, scores

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from csa.data.batch import Batch
    from csa.data.split import Groups
    from csa.methods.method import Method
    from csa.training.machine import Machine


@torch.no_grad()
def head_logits(method: Method, batches: Iterable[Batch], machine: Machine) -> tuple[dict[str, Tensor], Tensor]:
    """Logits of each head, [N, K] float32, and the labels [N], both on the device; of all processes' batches."""
    method.eval()
    parts: dict[str, list[Tensor]] = {head: [] for head in method.heads}
    labels = []
    for batch in batches:
        with machine.autocast():
            outputs = method.logits(batch.images)
        for head in method.heads:
            parts[head].append(outputs[head].float())
        labels.append(batch.labels)
    joined = machine.together.joined
    return {head: joined(torch.cat(part)) for head, part in parts.items()}, joined(torch.cat(labels))


def head_scores(logits: dict[str, Tensor], labels: Tensor, by_rank: Groups, by_count: Groups) -> dict[str, Scores]:
    return {head: scores(outputs, labels, by_rank, by_count) for head, outputs in logits.items()}
