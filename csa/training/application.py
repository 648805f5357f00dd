"""A recorded method applied to images, with the arithmetic that it was trained with."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from csa.config.faults import Fault, UserError
from csa.data.pictures import UnreadableImageError
from csa.data.split import Groups
from csa.data.streaming import LostWorkerError, plain_batches, telling_lost_workers
from csa.tracking.record import Record
from csa.training.checkpoint import DamagedCheckpointError
from csa.training.evaluation import head_logits, head_scores, plain_logits
from csa.training.loop import EVALUATION_BATCH
from csa.training.machine import choose
from csa.training.recorded import load_method

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from csa.config.schema import RuntimeConfig
    from csa.data.split import Images
    from csa.training.metrics import Scores

GROUP_RULES = ("by_rank", "by_count")


def scores_on(
    folder: Path, images: Images, labels: np.ndarray, runtime: RuntimeConfig
) -> tuple[dict[str, Scores], dict[str, str]]:
    """Scores of each head of a finished run on images with labels [N]; and files passed over, with the reason.

    Groups are those of the run's training set. On the same machine the run's own test set gives
    exactly the recorded scores.

    Raises:
        UserError: the model, or an image that may not be passed over, cannot be read; or there is no such device.
    """
    split = Record(folder).result()["split"]
    damaged: dict[str, str] = {}
    logits, on_device = _logits(folder, images, labels, runtime, damaged)
    by_rank, by_count = (Groups(**{name: tuple(group) for name, group in split[rule].items()}) for rule in GROUP_RULES)
    return head_scores(logits, on_device, by_rank, by_count), damaged


def probabilities(folder: Path, images: np.ndarray, runtime: RuntimeConfig) -> dict[str, np.ndarray]:
    """Class probabilities, float32 [N, K], of each head of a finished run; as ``scores_on``."""
    logits, _ = _logits(folder, images, np.zeros(len(images), dtype=np.int64), runtime, {})
    return {head: outputs.softmax(1).cpu().numpy() for head, outputs in logits.items()}


def _logits(
    folder: Path, images: Images, labels: np.ndarray, runtime: RuntimeConfig, damaged: dict[str, str]
) -> tuple[dict[str, Tensor], Tensor]:
    """Number of threads and precision are the recorded ones, unless ``runtime`` names threads: both move last bits.

    damaged: to be filled with the files that are passed over.
    """
    result = Record(folder).result()
    try:
        method, config = load_method(folder)
    except DamagedCheckpointError as error:
        raise UserError(Fault("run", folder.name, f"its model cannot be read ({error})")) from error
    machine = choose(
        replace(runtime, threads=runtime.threads or result["threads"]),
        replace(config.protocol, precision=result["precision"]),
    )
    method.to(device=machine.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    batches = plain_batches(images, labels, EVALUATION_BATCH, machine.device, machine.threads, damaged)
    try:
        with telling_lost_workers():
            return head_logits(method, plain_logits(method, machine), batches, machine.together)
    except (UnreadableImageError, LostWorkerError) as error:
        raise UserError(Fault("dataset", config.dataset.name, str(error))) from error
