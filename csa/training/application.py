"""A recorded method applied to images, with the arithmetic that it was trained with."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from csa.config.faults import Fault, UserError
from csa.config.host import cores
from csa.data.decoding import LostWorkerError, telling_lost_workers
from csa.data.pictures import UnreadableImageError
from csa.data.streaming import plain_batches
from csa.tracking.run import Run
from csa.training.distributed import ProcessGroup
from csa.training.evaluation import EVALUATION_BATCH, NotFiniteLogitsError, head_logits, head_scores, plain_logits
from csa.training.machine import choose
from csa.training.recorded import load_method

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
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
    split = Run(folder).result["split"]
    damaged: dict[str, str] = {}
    method, logits, on_device = _applied(folder, images, labels, runtime, damaged)
    try:
        return head_scores(method, logits, on_device, split["by_rank"], split["by_count"], ProcessGroup()), damaged
    except NotFiniteLogitsError as error:
        raise UserError(Fault("run", folder.name, str(error))) from error


def probabilities(
    folder: Path, images: np.ndarray, runtime: RuntimeConfig, *, calibrated: bool = False
) -> dict[str, np.ndarray]:
    """Class probabilities, float32 [N, K], of each head of a finished run; as ``scores_on``.

    calibrated: by the temperature of the run's validation images, where it has such.
    """
    method, logits, _ = _applied(folder, images, np.zeros(len(images), dtype=np.int64), runtime, {})
    run = Run(folder)
    known = {head: run.temperature(head) if calibrated else None for head in logits}
    return {head: method.probabilities(outputs / (known[head] or 1)).cpu().numpy() for head, outputs in logits.items()}


def answers(answer: Callable[[Tensor], Tensor], images: Images, labels: np.ndarray, dataset: str) -> np.ndarray:
    """The class that ``answer`` gives to each image, [N]: images [B, C, H, W] in [0, 1] to logits, on the processor.

    Damaged files are passed over where the data set says so. Raises UserError where one may not be, or cannot be read.
    """
    batches = plain_batches(images, labels, EVALUATION_BATCH, torch.device("cpu"), cores(), {})
    with _telling_what_cannot_be_read(dataset), torch.no_grad():
        return torch.cat([answer(batch.images).argmax(1) for batch in batches]).numpy()


@contextmanager
def _telling_what_cannot_be_read(dataset: str) -> Iterator[None]:
    try:
        with telling_lost_workers():
            yield
    except (UnreadableImageError, LostWorkerError) as error:
        raise UserError(Fault("dataset", dataset, str(error))) from error


def _applied(
    folder: Path, images: Images, labels: np.ndarray, runtime: RuntimeConfig, damaged: dict[str, str]
) -> tuple[Method, dict[str, Tensor], Tensor]:
    """The method, the logits of each of its heads, and the labels on the device.

    Number of threads and precision are the recorded ones, unless ``runtime`` names threads: both move last bits.

    damaged: to be filled with the files that are passed over.
    """
    result = Run(folder).result
    method, config = load_method(folder)
    machine = choose(
        replace(runtime, threads=runtime.threads or result["threads"]),
        replace(config.protocol, precision=result["precision"]),
    )
    method.to(device=machine.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    batches = plain_batches(images, labels, EVALUATION_BATCH, machine.device, machine.threads, damaged)
    with _telling_what_cannot_be_read(config.dataset.name):
        return method, *head_logits(method, plain_logits(method, machine), batches)
