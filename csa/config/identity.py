"""The identity of a run: what decides its result, as plain canonical values, and nothing else.

An allow-list. A key that is not named here (paths, devices, logging, names of recipes) does not
count; tests/config/test_identity.py says of each why. Left out are keys that the method ignores
(``used_when``), that only choose what is shown (``shown_only``), and that were added later and have
their ``neutral`` value; a null that stands for a number of the protocol is that number.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from csa.config.blocks import METHOD_WIRING
from csa.config.dataset_schema import ColouredDataset
from csa.config.locations import MOVED, shipped
from csa.config.method_schema import (
    BalancedContrastiveConfig,
    ContextShiftConfig,
    FocalConfig,
    FsaConfig,
    GlobalLocalMixtureConfig,
    OltrConfig,
    ParametricContrastiveConfig,
    PostHocConfig,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from csa.config.schema import BackboneConfig, Config, MethodConfig, ProtocolConfig

RESULTS_VERSION = {"fp32": 1, "bf16": 2, "auto": 2}
"""By the protocol's precision; raised where the correction of an error changes results.

2 in bf16: classifiers compute in fp32, logits are not rounded (``csa.models.heads``).
"""
CORRECTIONS: Mapping[str, Callable[[Config], bool]] = {
    "colours follow flipped labels": lambda run: isinstance(run.dataset, ColouredDataset),
    "centroids learn with the released gradient": lambda run: isinstance(run.method, OltrConfig),
    "scores of confusing classes are summed in one order": lambda run: isinstance(run.method, FsaConfig),
    "tau-normalised logits in float32": lambda run: (
        isinstance(run.method, PostHocConfig)
        and run.method.correction == "tau_norm"
        and run.protocol.precision != "fp32"
    ),
    # The balanced batch before the uniform one; a bank of as many entries as the batch has images is enough; decay and
    # momentum of the balanced head go on while it refills. Without a bank only the order is another one.
    "context shift as released": lambda run: isinstance(run.method, ContextShiftConfig),
    "shortened runs keep a warm-up": lambda run: _had_no_warm_up(run.protocol),
    "projections in float32": lambda run: run.protocol.precision != "fp32" and _projects(run.method),
    "calibration of sigmoid losses is that of their own probabilities": lambda run: (
        isinstance(run.method, FocalConfig) and run.method.form == "sigmoid"
    ),
}
"""Corrections of errors that changed the results of some runs: a name, and whether it concerns a run.

Those runs have new fingerprints, so that no table mixes what was computed before and after; all others keep theirs.
"""
SIGNIFICANT_DIGITS = 12
DIGITS = 12
"""Of a fingerprint."""
DATASET = ("unreadable",)
SAMPLER = ("rule", "q", "images_per_visit", "draws")
NOT_OF_BACKBONE = ("schema", "target", "min_size", "pixel_bytes")
PROTOCOL = (
    *("epochs", "reference_epochs", "batch_size", "lr", "momentum", "weight_decay", "nesterov", "schedule"),
    *("warmup_epochs", "warmup_from", "warmup_each_step", "milestones", "factors", "drop_last", "crop_padding"),
    *("flip", "precision", "resized_crop", "colour_jitter", "augment", "rand_operations", "rand_strength", "cutout"),
    *("optimizer", "layer_decay", "clip_norm", "ema", "label_smoothing", "choose"),
)
RUNTIME = ("sync_batch_norm",)
FIRST_PATHS = {now: first for first, now in MOVED.items()}


def identity(config: Config, split_hash: str) -> dict[str, Any]:
    """Nested plain values, equal for two configurations exactly when they are one run.

    split_hash: of the data set's content. The hash has the pixels; how they are normalised stands beside it.
    """
    method, backbone = config.method.resolved(config.protocol), config.backbone
    own = [field.name for field in fields(method) if field.name not in METHOD_WIRING]
    of_backbone = [field.name for field in fields(backbone) if field.name not in NOT_OF_BACKBONE]
    normalisation = {"mean": canonical(config.dataset.mean), "std": canonical(config.dataset.std)}
    normalisation |= _counted(config.dataset, DATASET)
    parts = {
        "results_version": RESULTS_VERSION[config.protocol.precision],
        "dataset": {"name": config.dataset.name, "split": split_hash, **normalisation},
        "method": _counted(method, own) | _other_code("method", method),
        "backbone": _counted(backbone, of_backbone) | _other_code("backbone", backbone),
        "protocol": _counted(config.protocol, PROTOCOL) | _counted(config.runtime, RUNTIME),
        "seed": config.seed,
        "variant": config.variant,
    }
    if corrected := sorted(name for name, concerns in CORRECTIONS.items() if concerns(config)):
        parts["corrections"] = corrected
    if config.method.streams == "sampler":
        parts["sampler"] = _counted(config.sampler, SAMPLER)
    return parts


def _projects(method: MethodConfig) -> bool:
    """Whether it compares projected features."""
    contrasts = isinstance(method, ContextShiftConfig) and method.loss == "bcl"
    return contrasts or isinstance(
        method, BalancedContrastiveConfig | ParametricContrastiveConfig | GlobalLocalMixtureConfig
    )


def _had_no_warm_up(protocol: ProtocolConfig) -> bool:
    """Whether rounding down left no epoch below the full learning rate."""
    left = protocol.scaled(protocol.warmup_epochs)
    return protocol.warmup_epochs > 0 and left < (2 if protocol.warmup_from is None else 1)


def fingerprint(identity: dict[str, Any]) -> str:
    """``DIGITS`` hexadecimal digits that name a run."""
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def _other_code(group: str, block: MethodConfig | BackboneConfig) -> dict[str, str]:
    """The class, where it is not the one that our option of this name has: by the path that it had first."""
    ours, target = shipped(group, block.name), MOVED.get(block.target, block.target)
    if ours is not None and ours["target"] == target:
        return {}
    return {"target": FIRST_PATHS.get(target, target)}


def _counted(block: Any, names: Collection[str]) -> dict[str, Any]:
    """The named keys of a block that have an effect."""
    counted = {}
    for field in (field for field in fields(block) if field.name in names):
        value = canonical(field.metadata.get("counted_as", canonical)(getattr(block, field.name)))
        neighbour, test = field.metadata.get("used_when", ("", None))
        used = test is None or test(getattr(block, neighbour)) or field.metadata.get("otherwise", value) != value
        neutral = "neutral" in field.metadata and canonical(field.metadata["neutral"]) == value
        ignored = neutral or not used or "shown_only" in field.metadata
        if not ignored:
            counted[field.name] = value
    return counted


def canonical(value: Any) -> Any:
    """One spelling for equal values: 0.30000000000000004 is 0.3, 1.0 is 1."""
    if isinstance(value, list | tuple):
        return [canonical(item) for item in value]
    if isinstance(value, float):
        rounded = float(f"{value:.{SIGNIFICANT_DIGITS}g}")
        return int(rounded) if rounded.is_integer() else rounded
    return value


# --- names for people -----------------------------------------------------------------------


def slug(config: Config) -> str:
    """What a run is, for the eyes: ``ir100-resnet32-cifar-delta0.8-s0``. The fingerprint beside it is what counts."""
    dataset, delta = config.dataset, getattr(config.method, "delta", None)
    parts = [
        {"exp": "ir", "step": "step"}.get(dataset.profile, dataset.profile)
        + (f"{dataset.imbalance_ratio:g}" if dataset.profile in ("exp", "step") else ""),
        getattr(config.backbone, "model", config.backbone.name),
        config.protocol.name,
        *([] if config.method.streams == "own" else [config.sampler.name]),
        *([] if delta is None else [f"delta{canonical(delta)}"]),
        *([config.variant] if config.variant else []),
        f"s{config.seed}",
    ]
    return "-".join(map(_safe, parts))


def run_folder(config: Config, fingerprint: str) -> Path:
    """The folder of a run; one that another spelling of the same run has made is found again."""
    parent = Path(config.output_root).expanduser() / _safe(config.dataset.name) / _safe(config.method.name)
    made = sorted(parent.glob(f"*-{fingerprint}"))
    return made[0] if made else parent / f"{slug(config)}-{fingerprint}"


def _safe(name: str) -> str:
    """A name without characters that mean something to a file system; at most 40."""
    return re.sub(r"[^A-Za-z0-9_.+-]", "_", name).lstrip(".")[:40] or "_"
