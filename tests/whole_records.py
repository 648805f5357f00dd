"""Handmade records that lack nothing: what is of no interest to a test is there all the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from csa.metrics import GROUPS, SUMMARY

IDENTITY = {
    "dataset": {"name": "dots_lt", "split": "5" * 64},
    "method": {"name": "ce"},
    "backbone": {"name": "lenet"},
    "protocol": {"epochs": 2},
    "seed": 0,
    "variant": "",
}
CONFIG = """\
dataset: {name: dots_lt, schema: csa.config.schema.NpzDataset, source: dots.Dots, profile: exp, imbalance_ratio: 10.0,
  max_per_class: null, cap: false, split_seed: 0, holdout: 0, groups: [1, 1, 1], mean: null, std: null,
  path: /home/someone/dots.npz}
sampler: {name: uniform, rule: shuffle, q: null, images_per_visit: null, draws: images}
method: {name: ce, schema: csa.config.schema.CrossEntropyConfig, target: csa.methods.cross_entropy.CrossEntropy,
  streams: sampler}
backbone: {name: lenet, target: csa.models.lenet.LeNet, stem: null, min_size: 8}
protocol: {name: tiny, epochs: 2, reference_epochs: 2, batch_size: 16, lr: 0.0001, momentum: 0.9, weight_decay: 0.0005,
  nesterov: false, schedule: constant, warmup_epochs: 0, milestones: [], factors: [], crop_padding: 0, flip: false,
  precision: fp32, balanced_epoch: images, mixup_alpha: 1.0, mixup_off_epochs: 1,
  stage_two: {epochs: 1, lr: 0.1, head: new, bn_mode: train}}
tracking: {name: mlflow, schema: csa.tracking.gone.Old, uri: 'http://me:secret@host:1', experiment: csa, model: false}
data_dir: /home/someone
delta: 0.8
seed: 0
variant: ''
"""
LINE = {
    "stage": "train", "epoch": 0, "lr": 0.1, "loss": 1.0, "heads": {"only": {"all": 50.0}}, "images": 62,
    "seconds": 2.0, "evaluation_seconds": 0.5,
}  # fmt: skip


def evaluation(accuracy: float = 50.0, classes: int = 3, **more: Any) -> dict[str, Any]:
    return {
        **dict.fromkeys(SUMMARY, accuracy), "by_count": dict.fromkeys(GROUPS, accuracy),
        "per_class": [accuracy] * classes, "ece": 5.0, "predicted_classes": classes, **more,
    }  # fmt: skip


def whole_result(accuracy: float = 50.0, classes: int = 3, **more: Any) -> dict[str, Any]:
    """more: in place of parts of it."""
    last = evaluation(accuracy, classes)
    return {
        "status": "done",
        "fingerprint": "0123456789ab",
        **{name: last[name] for name in SUMMARY},
        "head": "only",
        "heads": {"only": {"last": last, "best_on_test": last | {"epoch": 1}}},
        "collapsed": False,
        "epochs": 2,
        "reused_epochs": 0,
        "seconds": 5.0,
        "training_seconds": 4.0,
        "images_per_second": 31.0,
        "step_mode": "eager",
        "run": whole_names(),
        "split": whole_split(),
        "device": "cpu",
        "hardware": "Abacus, 2 cores",
        "precision": "fp32",
        "threads": 1,
        "python": "3.12.0",
        "packages": {"torch": "2.11.0"},
        "git_revision": None,
        "git_dirty": None,
        **more,
    }


def whole_names(**more: Any) -> dict[str, Any]:
    return {
        "dataset": "dots_lt", "method": "ce", "backbone": "lenet", "protocol": "tiny", "sampler": "uniform", "seed": 0,
        "variant": "", **more,
    }  # fmt: skip


def whole_split(counts: Sequence[int] = (2, 20, 5), **more: Any) -> dict[str, Any]:
    groups = {"many": [0], "medium": [1], "few": list(range(2, len(counts)))}
    return {
        "hash": "5" * 64, "classes": [f"class {k}" for k in range(len(counts))], "counts": list(counts),
        "image_shape": [1, 8, 8], "mean": [0.5], "std": [0.2], "total": sum(counts), "test_images": len(counts),
        "holdout_images": 0, "by_rank": groups, "by_count": groups, **more,
    }  # fmt: skip
