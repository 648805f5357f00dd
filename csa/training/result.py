"""From a finished training to what its record says: result.json and test_outputs.npz."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from csa.metrics import completed
from csa.training.evaluation import best_temperature, predict

if TYPE_CHECKING:
    from torch import Tensor

    from csa.config.schema import Config
    from csa.data.split import Split
    from csa.methods.method import Method
    from csa.metrics import Scores
    from csa.training.evaluation import Evaluated
    from csa.training.state import History, TrainState


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
