"""The networks of recorded runs, for figures: which, their features, their class maps. Imports torch late."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from csa.config.faults import Fault, UserError
from csa.reporting.layout import printed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pandas as pd
    from torch import Tensor

    from csa.config.schema import Config
    from csa.methods.method import Method
    from csa.models.backbone import Backbone
    from csa.tracking.run import Run

BATCH = 500

# --- which runs -----------------------------------------------------------------------------


def model_runs(
    rows: pd.DataFrame, dataset: str, methods: Sequence[str], seed: int, imbalance_ratio: float | None = None
) -> list[Run]:
    """Of each method one run on the data set with that seed whose checkpoint is there: same images, same backbone.

    rows: of ``one_head``. Which images and backbone: those that most of the methods have, then those with the plainest
    runs, then the backbone that most runs have, then the highest imbalance ratio, unless one is asked for. Which run:
    plain settings before shortened runs, those before variants (CSA without its bank), then the one of most epochs.

    Raises UserError with every method that has none.
    """
    here = [
        (run, distance(words))
        for run, words in zip(rows["run"], rows["settings"], strict=True)
        if (run.dataset, run.seed) == (dataset, seed)
        and run.method in methods
        and run.checkpoint.exists()
        and imbalance_ratio in (None, run.config["dataset"]["imbalance_ratio"])
    ]
    cells: dict[tuple[str, str], dict[str, tuple[Run, int]]] = {}
    for run, far in sorted(here, key=lambda one: (one[1], -int(one[0].result["epochs"]), one[0].fingerprint)):
        cells.setdefault((run.split, _backbone(run)), {}).setdefault(run.method, (run, far))
    often = [_backbone(run) for run, _ in here]

    def preference(cell: dict[str, tuple[Run, int]]) -> tuple[object, ...]:
        run = next(iter(cell.values()))[0]
        farthest, ratio = max(far for _, far in cell.values()), run.config["dataset"]["imbalance_ratio"]
        return -len(cell), farthest, -often.count(_backbone(run)), -ratio, run.split, _backbone(run)

    chosen = min(cells.values(), key=preference, default={})
    missing = [method for method in methods if method not in chosen]
    if missing:
        there = [run for run, _ in chosen.values()]
        raise UserError(*(_no_run(method, there, list(rows["run"]), dataset, seed) for method in missing))
    return [chosen[method][0] for method in methods]


def distance(settings: str) -> int:
    """From the plain settings of a method: 0 these, 1 these but of another recipe or other images, 2 others."""
    words = settings.split()
    return 0 if not words else 1 if all(word.startswith(("protocol", "dataset.")) for word in words) else 2


def _backbone(run: Run) -> str:
    return str(run.identity["backbone"]["name"])


def _no_run(method: str, chosen: Sequence[Run], runs: Sequence[Run], dataset: str, seed: int) -> Fault:
    """What is missing, and the seeds that there are or the command that trains it."""
    seeds = sorted(
        {run.seed for run in runs if (run.dataset, run.method) == (dataset, method) and run.checkpoint.exists()}
    )
    problem = f"no run of it on {dataset} with seed {seed} has a checkpoint here"
    if seeds and seed not in seeds:
        return Fault("methods", method, problem, f"seed={', '.join(map(str, seeds))}")
    words = f"dataset={dataset} method={method} seed={seed}"
    if seed in seeds and chosen:
        others = ", ".join(run.method for run in chosen)
        problem = f"no run of it with the images and the backbone of {others} (seed {seed}) has a checkpoint here"
        block = chosen[0].config["dataset"]
        ratio = f" dataset.imbalance_ratio={block['imbalance_ratio']:g}" if block.get("profile") == "exp" else ""
        words += f"{ratio} backbone={_backbone(chosen[0])}"
    return Fault("methods", method, problem, f"python -m csa.run {words}")


def told(runs: Sequence[Run]) -> str:
    """Which runs a picture is of."""
    return "; ".join(f"{printed(run.method)} {run.fingerprint} (seed {run.seed})" for run in runs)


# --- networks -------------------------------------------------------------------------------


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
    from csa.models.backbone import Backbone
    from csa.training.recorded import load_method

    method, config = load_method(run.folder)
    backbone = getattr(method, "backbone", None)
    if not isinstance(backbone, Backbone):
        problem = f"{run.method} has no single backbone whose features could be drawn"
        raise UserError(Fault("methods", run.method, problem, "methods with one backbone"))
    return Model(run, method, backbone, config)


def as_images(pixels: np.ndarray) -> Tensor:
    """uint8 [N, H, W, C] to float32 [N, C, H, W] in [0, 1]."""
    import torch

    return torch.from_numpy(pixels.copy()).permute(0, 3, 1, 2).float() / 255


def features(model: Model, pixels: np.ndarray) -> np.ndarray:
    """What the classifiers read, float32 [N, F]."""
    import torch

    with torch.no_grad():
        parts = [model.backbone(as_images(pixels[start : start + BATCH])) for start in range(0, len(pixels), BATCH)]
    found: np.ndarray = torch.cat(parts).numpy()
    return found


def class_maps(model: Model, pixels: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Grad-CAM of each image's own class under the primary head [N, H, W] in [0, 1], and p(y|x) [N].

    Under CSA's uniform head it is the map of training, whose mask is (1 - cam)^2.
    """
    import torch

    from csa.methods.background_mask import background_mask, gradient_class_map

    model.backbone.need_map("a class map")
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
    certain = model.method.probabilities(logits.detach()).gather(1, picked)[:, 0]
    return cam[:, 0].numpy(), certain.numpy()


@contextmanager
def _reading(backbone: Backbone, feature_map: Tensor) -> Iterator[None]:
    """Inside, the backbone's convolutions give this map: whatever a method computes from it can be differentiated."""
    vars(backbone)["feature_map"] = lambda _: feature_map
    try:
        yield
    finally:
        del vars(backbone)["feature_map"]
