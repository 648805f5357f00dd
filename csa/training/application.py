"""A recorded method applied to images, with the arithmetic that it was trained with."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from csa.config.faults import Fault, UserError
from csa.data.pictures import UnreadableImageError
from csa.data.streaming import LostWorkerError, plain_batches, telling_lost_workers
from csa.tracking.record import Record
from csa.training.checkpoint import DamagedCheckpointError
from csa.training.evaluation import NotFiniteLogitsError, head_logits, head_scores, plain_logits
from csa.training.loop import EVALUATION_BATCH
from csa.training.machine import choose
from csa.training.recorded import load_method
from csa.training.together import Together

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from csa.config.schema import RuntimeConfig
    from csa.data.split import Images
    from csa.methods.method import Method
    from csa.metrics import Scores


def scores_on(
    folder: Path, images: Images, labels: np.ndarray, runtime: RuntimeConfig
) -> tuple[dict[str, Scores], dict[str, str]]:
    """Scores of each head of a finished run on images with labels [N]; and files passed over, with the reason.

    Groups are those of the run's training set. On the same machine the run's own test set gives
    exactly the recorded scores.

    Raises:
        UserError: the model, or an image that may not be passed over, cannot be read; a logit is not finite; or there
            is no such device.
    """
    split = Record(folder).result()["split"]
    damaged: dict[str, str] = {}
    method, logits, on_device = _applied(folder, images, labels, runtime, damaged)
    try:
        return head_scores(method, logits, on_device, split["by_rank"], split["by_count"], Together()), damaged
    except NotFiniteLogitsError as error:
        raise UserError(Fault("run", folder.name, str(error))) from error


def probabilities(folder: Path, images: np.ndarray, runtime: RuntimeConfig) -> dict[str, np.ndarray]:
    """Class probabilities, float32 [N, K], of each head of a finished run; as ``scores_on``."""
    method, logits, _ = _applied(folder, images, np.zeros(len(images), dtype=np.int64), runtime, {})
    return {head: method.probabilities(outputs).cpu().numpy() for head, outputs in logits.items()}


def _applied(
    folder: Path, images: Images, labels: np.ndarray, runtime: RuntimeConfig, damaged: dict[str, str]
) -> tuple[Method, dict[str, Tensor], Tensor]:
    """The method, the logits of each of its heads, and the labels on the device.

    Number of threads and precision are the recorded ones, unless ``runtime`` names threads: both move last bits.

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
            return method, *head_logits(method, plain_logits(method, machine), batches)
    except (UnreadableImageError, LostWorkerError) as error:
        raise UserError(Fault("dataset", config.dataset.name, str(error))) from error
