"""Where the configuration tree, sweep files and classes of ours lie, what is shipped, and what a named file holds."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parent.parent

MOVED = {
    "csa.methods.balanced_contrastive.BalancedContrastive": "csa.methods.contrastive.BalancedContrastive",
    "csa.methods.bilateral_branch.BilateralBranch": "csa.methods.cumulative_learning.BilateralBranch",
    "csa.methods.classifier_retraining.ClassifierRetraining": "csa.methods.decoupled.ClassifierRetraining",
    "csa.methods.classifier_retraining.MixupRetraining": "csa.methods.decoupled.MixupRetraining",
    "csa.methods.cmo.CutMixOversampling": "csa.methods.mixing.CutMixOversampling",
    "csa.methods.cross_entropy.CrossEntropy": "csa.methods.classifier.CrossEntropy",
    "csa.methods.deferred.DeferredResampling": "csa.methods.classifier.DeferredResampling",
    "csa.methods.deferred.DeferredReweighting": "csa.methods.classifier.DeferredReweighting",
    "csa.methods.deferred.LdamDeferredReweighting": "csa.methods.classifier.LdamDeferredReweighting",
    "csa.methods.focal.Focal": "csa.methods.classifier.Focal",
    "csa.methods.global_local_mixture.GlobalLocalMixture": "csa.methods.cumulative_learning.GlobalLocalMixture",
    "csa.methods.logit_adjustment.LogitAdjustment": "csa.methods.classifier.LogitAdjustment",
    "csa.methods.mixup.Mixup": "csa.methods.mixing.Mixup",
    "csa.methods.mixup.Remix": "csa.methods.mixing.Remix",
    "csa.methods.parametric_contrastive.ParametricContrastive": "csa.methods.contrastive.ParametricContrastive",
    "csa.methods.post_hoc.PostHocCorrection": "csa.methods.decoupled.PostHocCorrection",
    "csa.methods.weight_balancing.WeightBalancing": "csa.methods.decoupled.WeightBalancing",
    "csa.models.lenet.LeNet": "csa.models.networks.LeNet",
    "csa.models.resnet.ResNet10": "csa.models.torchvision_network.ResNet10",
    "csa.models.resnet.ResNet18": "csa.models.torchvision_network.ResNet18",
    "csa.models.resnet.ResNet50": "csa.models.torchvision_network.ResNet50",
    "csa.models.resnet_cifar.ResNet32": "csa.models.networks.ResNet32",
    "csa.tracking.csv_tracker.CsvTracker": "csa.tracking.tracker.CsvTracker",
    "csa.tracking.mlflow.settings.MlflowTracking": "csa.tracking.mlflow.store.MlflowTracking",
    "csa.tracking.tensorboard_tracker.TensorboardTracker": "csa.tracking.tracker.TensorboardTracker",
    "csa.tracking.wandb_tracker.WandbTracker": "csa.tracking.tracker.WandbTracker",
    "csa.tracking.wandb_tracker.WandbTracking": "csa.tracking.tracker.WandbTracking",
}
"""Classes of ours by the path that records, identities and files of others name them by, and where they lie now."""


def conf_dir() -> Path:
    """The Hydra tree: inside an installed wheel, or beside the package in a checkout."""
    return _inside_or_beside("conf")


def sweeps_dir() -> Path:
    """One file for each table or figure, found by ``-cn``; the folder may not exist yet."""
    return _inside_or_beside("sweeps")


@cache
def shipped(group: str, option: str) -> Mapping[str, Any] | None:
    """The block of one of our own options, references as they are written; None where there is no such option.

    As its file and the option that it starts from have it (``lws`` from ``crt``): nothing is composed.
    """
    from omegaconf import OmegaConf

    path = conf_dir() / group / f"{option}.yaml"
    if path not in conf_dir().glob(f"{group}/*.yaml"):
        return None
    content: Any = OmegaConf.to_container(OmegaConf.load(path))
    starts = [one for one in content.pop("defaults", []) if isinstance(one, str) and one != "_self_"]
    base = shipped(group, starts[0]) if starts else None
    merged: Any = OmegaConf.to_container(OmegaConf.merge(base or {}, content.get(group, content)))
    return merged  # type: ignore[no-any-return]


def weights_file(weights: str | None) -> Path | None:
    """The file that ``backbone.weights`` names; None where it is a name of the library's, or null."""
    if weights is None or not ("/" in weights or weights.endswith((".pt", ".pth", ".bin", ".safetensors"))):
        return None
    return Path(weights).expanduser()


def content_of(file: Path | None) -> str | None:
    """SHA-256 of a file, in few digits; None where there is none."""
    if file is None or not file.is_file():
        return None
    status = file.stat()
    return _content_of(file, status.st_mtime_ns, status.st_ctime_ns, status.st_size)


@cache
def _content_of(file: Path, *_stamp: int) -> str:
    with file.open("rb") as stream:
        return f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()[:16]}"


def _inside_or_beside(name: str) -> Path:
    inside = PACKAGE / name
    return inside if inside.is_dir() else PACKAGE.parent / name
