"""A recorded network and the images it was trained and tested on. Imports torch."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from csa.config.faults import Fault, UserError
from csa.data.build import load_split
from csa.methods.background_mask import background_mask, gradient_class_map
from csa.models.backbone import Backbone
from csa.training.checkpoint import DamagedCheckpointError
from csa.training.recorded import load_method

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from torch import Tensor

    from csa.config.schema import Config
    from csa.data.split import Split
    from csa.methods.method import Method
    from csa.reporting.runs import Run

BATCH = 500


@dataclass(frozen=True)
class Model:
    run: Run
    method: Method
    backbone: Backbone
    config: Config


def load_models(runs: Sequence[Run]) -> list[Model]:
    """Raises UserError where a network cannot be read or has no single backbone."""
    return [_load(run) for run in runs]


def _load(run: Run) -> Model:
    assert run.folder is not None
    try:
        method, config = load_method(run.folder)
    except DamagedCheckpointError as error:
        raise UserError(Fault("run", run.folder.name, f"its model cannot be read ({error})")) from error
    backbone = getattr(method, "backbone", None)
    if not isinstance(backbone, Backbone):
        problem = f"{run.method} has no single backbone whose features could be drawn"
        raise UserError(Fault("methods", run.method, problem, "methods with one backbone"))
    return Model(run, method, backbone, config)


def split_of(model: Model, data_dir: str, download: bool) -> Split:
    """The images of the run. Raises UserError where they are not what they were."""
    split = load_split(model.config.dataset, data_dir, download)
    if split.hash != model.run.split:
        problem = f"data set {split.name!r} is not what it was: its hash was {model.run.split}, now {split.hash}"
        raise UserError(Fault("run", model.run.where, problem, "the data of the run"))
    return split


def as_images(pixels: np.ndarray) -> Tensor:
    """uint8 [N, H, W, C] to float32 [N, C, H, W] in [0, 1]."""
    return torch.from_numpy(pixels.copy()).permute(0, 3, 1, 2).float() / 255


@torch.no_grad()
def features(model: Model, pixels: np.ndarray) -> np.ndarray:
    """What the classifiers read, float32 [N, F]."""
    parts = [model.backbone(as_images(pixels[start : start + BATCH])) for start in range(0, len(pixels), BATCH)]
    found: np.ndarray = torch.cat(parts).numpy()
    return found


def class_maps(model: Model, pixels: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Grad-CAM of each image's own class under the primary head [N, H, W] in [0, 1], and p(y|x) [N].

    Under CSA's uniform head it is the map of training, whose mask is (1 - cam)^2.
    """
    images = as_images(pixels)
    with torch.no_grad():
        feature_map = model.backbone.feature_map(images)
    feature_map = feature_map.detach().requires_grad_()
    with _reading(model.backbone, feature_map):
        logits = model.method.logits(images)[model.method.primary_head].float()
    picked = torch.from_numpy(labels)[:, None]
    maps = gradient_class_map(feature_map, logits.gather(1, picked))
    height, width = pixels.shape[1:3]
    cam = 1 - background_mask(maps, (height, width)).sqrt()
    certain = logits.detach().softmax(1).gather(1, picked)[:, 0]
    return cam[:, 0].numpy(), certain.numpy()


@contextmanager
def _reading(backbone: Backbone, feature_map: Tensor) -> Iterator[None]:
    """Inside, the backbone's convolutions give this map: whatever a method computes from it can be differentiated."""
    vars(backbone)["feature_map"] = lambda _: feature_map
    try:
        yield
    finally:
        del vars(backbone)["feature_map"]
