"""M2m (Kim et al. 2020): majority images, translated by a helper network, become minority samples."""

from __future__ import annotations

import math
from copy import deepcopy
from typing import TYPE_CHECKING, Literal

import torch
from torch.nn import functional as F

from csa.config.method_schema import TranslationConfig
from csa.methods.classifier import Classifier, trained_by_cross_entropy
from csa.methods.losses import cross_entropy
from csa.methods.method import Stage, Step, evaluating
from csa.methods.stages import UNIFORM, class_balanced, learning_rate, training_stage
from csa.models.heads import linear_head
from csa.randomness import initialised_at

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor, nn

    from csa.config.schema import SamplerConfig
    from csa.data.batch import Batch
    from csa.methods.method import Clock, Context

HELPER, MODEL = 0, 1


class MajorToMinor(Classifier):
    """Stage one is ``ce`` and trains the helper; stage two trains a new network, with translation near its end."""

    counts: Tensor

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        assert isinstance(context.config, TranslationConfig)
        self.config = context.config.resolved(context.protocol)
        self.seed, self.num_classes, self.image_shape = context.seed, context.num_classes, context.image_shape
        self.build_backbone = context.build_backbone
        self.helper: nn.ModuleDict | None = None
        self.register_buffer("counts", torch.tensor(context.counts, dtype=torch.float32), persistent=False)
        protocol = context.protocol
        self.stages = (
            training_stage(protocol, trained_by_cross_entropy(UNIFORM)),
            Stage("model", protocol.epochs, learning_rate(protocol), lr_each_step=protocol.warmup_each_step),
        )

    def enter_stage(self, stage: int) -> None:
        if stage == HELPER:
            return
        self.helper = torch.nn.ModuleDict({"backbone": deepcopy(self.backbone), "head": deepcopy(self.head)})
        self.helper.requires_grad_(False)
        with initialised_at(self.seed, "init", "model"):
            self.backbone.load_state_dict(self.build_backbone().state_dict())
            self.head.load_state_dict(linear_head(self.backbone, self.num_classes).state_dict())

    def train_stage(self, stage: int) -> None:
        self.train()
        if self.helper is not None:
            self.helper.eval()

    # --- what is in force when --------------------------------------------------------------

    def translates(self, clock: Clock) -> bool:
        assert self.config.start_epoch is not None
        return clock.stage == MODEL and clock.epoch >= self.config.start_epoch

    def phase(self, clock: Clock) -> str:
        return "translate" if self.translates(clock) else "plain"

    def streams(self, clock: Clock) -> dict[str, SamplerConfig]:
        return {"train": class_balanced("images") if self.translates(clock) else UNIFORM}

    def draws(self, clock: Clock, sizes: Sequence[int], generator: torch.Generator) -> dict[str, Tensor]:
        """``marked``, ``chosen`` and ``accepted`` [steps, B] ~ U(0, 1); ``noise`` [steps, B, C, H, W] ~ U(-1/2, 1/2).

        Of a whole epoch on CIFAR-10-LT the noise has 150 MB.
        """
        if not self.translates(clock):
            return {}
        shape = len(sizes), max(sizes)
        drawn = {name: torch.rand(shape, generator=generator) for name in ("marked", "chosen", "accepted")}
        return drawn | {"noise": torch.rand(*shape, *self.image_shape, generator=generator).sub_(0.5)}

    # --- a step -----------------------------------------------------------------------------

    def forward(self, batches: dict[str, Batch], draws: dict[str, Tensor], clock: Clock) -> Step:
        batch = batches["train"]
        images, measures = batch.images, {}
        if self.translates(clock):
            draws = {name: row[: len(batch.labels)] for name, row in draws.items()}
            images, replaced = self.replaced(batch, draws)
            measures = {"translated": replaced.float().mean()}
        return Step(cross_entropy(self.outputs(images), [(batch.labels, 1.0)]), measures)

    def replaced(self, batch: Batch, draws: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The batch with some images replaced by translated ones, and which, [B] bool; labels stay.

        All positions are translated and those that count are chosen afterwards: shapes stay, nothing waits.
        """
        sizes = self.counts[batch.labels]
        weights = seed_weights(sizes[None], sizes[:, None], self.config.beta)  # [target, seed]
        marked = (draws["marked"] < 1 - sizes / self.counts.max()) & (weights.amax(1) > 0)
        chosen = choose(weights, draws["chosen"])
        suitable = weights.gather(1, chosen[:, None])[:, 0]
        noise = limited(draws["noise"] * marked.view(-1, 1, 1, 1), self.config.noise)
        start = (batch.images[chosen] + noise).clamp(0, 1)
        translated, confidence = self.translated(start, batch.labels, batch.labels[chosen])
        accepted = marked & (confidence >= self.config.gamma) & (draws["accepted"] < suitable)
        return torch.where(accepted.view(-1, 1, 1, 1), translated, batch.images), accepted

    def translated(self, start: Tensor, targets: Tensor, seeds: Tensor) -> tuple[Tensor, Tensor]:
        """Images translated from the classes ``seeds`` to ``targets``, and the helper's p(target), [B]."""

        def objective(images: Tensor) -> Tensor:
            return towards_target(self.helped(images), self.outputs(images), targets, seeds, self.config.seed_weight)

        with evaluating(self.backbone, self.head):
            images = translate(start, objective, self.config.step_size, self.config.iterations)
        with torch.no_grad():
            confidence = self.helped(images).float().softmax(1).gather(1, targets[:, None])[:, 0]
        torch.clear_autocast_cache()  # weights cast without a gradient must not reach the training pass
        return images, confidence

    def helped(self, images: Tensor) -> Tensor:
        """The helper's logits."""
        assert self.helper is not None
        logits: Tensor = self.helper["head"](self.helper["backbone"](images))
        return logits


# --- rules ----------------------------------------------------------------------------------


NOISE_NORM = 0.5
TINY = 1e-12
"""Keeps a gradient of 0 from dividing by 0, and a beta of 0 from the logarithm."""


def seed_weights(seed_counts: Tensor, target_counts: Tensor, beta: float) -> Tensor:
    """How suitable an image is as a seed: ``1 - beta^(n_seed - n_target)``, 0 where the seed's class is no larger."""
    gap = (seed_counts - target_counts).clamp_min(0)
    return -torch.expm1(gap * math.log(max(beta, TINY)))


def choose(weights: Tensor, uniform: Tensor) -> Tensor:
    """A column of each row with probability proportional to its weight, [B]; of a row of zeros the last.

    weights: [B, B']; uniform: [B] in [0, 1).
    """
    cumulative = weights.cumsum(1)
    positions = torch.searchsorted(cumulative, (uniform * cumulative[:, -1])[:, None], right=True)
    return positions[:, 0].clamp_max(weights.shape[1] - 1)


def limited(noise: Tensor, over: Literal["channel", "image"]) -> Tensor:
    """Noise [B, C, H, W] of at most L2 norm 1/2: each channel of the whole batch (as released), or each image."""
    return noise.renorm(2, 1 if over == "channel" else 0, NOISE_NORM)


def translate(images: Tensor, objective: Callable[[Tensor], Tensor], step_size: float, iterations: int) -> Tensor:
    """Descend ``objective`` (images to a sum over them) from ``images`` by steps of one length, within [0, 1].

    No parameter receives a gradient.
    """
    for _ in range(iterations):
        images = images.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(objective(images), images)
        length = gradient.flatten(1).norm(dim=1).clamp_min(TINY)
        images = (images.detach() - step_size * gradient / length.view(-1, 1, 1, 1)).clamp(0, 1)
    return images.detach()


def towards_target(helper: Tensor, model: Tensor, targets: Tensor, seeds: Tensor, seed_weight: float) -> Tensor:
    """The objective: the helper's cross-entropy for the target class, and the model's logit of the seed's class.

    helper, model: logits [B, K] of the two networks; targets, seeds: labels [B]. Summed over the images.
    """
    of_seeds = model.float().gather(1, seeds[:, None]).sum()
    return F.cross_entropy(helper.float(), targets, reduction="sum") + seed_weight * of_seeds
