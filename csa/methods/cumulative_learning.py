"""Cumulative learning: an emphasis that moves from the images as they come to rebalanced ones. BBN and GLMC."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from csa.config.method_schema import BilateralConfig, GlobalLocalMixtureConfig
from csa.config.schema import SamplerConfig
from csa.data.samplers import View
from csa.methods.losses import Targets, class_weighted, cross_entropy, normalized_weights, plain
from csa.methods.method import Clock, Context, Method, Step
from csa.methods.mixing import beta_draws, clipped_boxes, paste
from csa.methods.stages import REVERSED, UNIFORM, power, training_stage
from csa.models.heads import LinearHead, linear_head
from csa.randomness import initialised_at

if TYPE_CHECKING:
    from csa.data.batch import Batch


def emphasis(epoch: int, epochs: int) -> float:
    """alpha, the weight of the branch of images as they come: 1 in epoch 0, towards 0 on a parabola."""
    return 1 - (epoch / epochs) ** 2


class BilateralBranch(Method):
    """BBN (Zhou et al. 2020): one trunk, two last blocks, natural batches and reversed ones.

    The trunk sees the two batches in passes of their own, so batch-norm sees their distributions apart. One linear
    layer reads both features, which is two classifiers with one bias.
    """

    heads = ("classifier",)
    primary_head = "classifier"

    def __init__(self, context: Context) -> None:
        super().__init__()
        assert isinstance(context.config, BilateralConfig)
        self.factor = context.config.branch_factor
        with initialised_at(context.seed, "init", "backbone"):
            self.backbone = context.build_backbone()
        with initialised_at(context.seed, "init", "reversed_block"):
            self.reversed_block = context.build_backbone().last_block
        with initialised_at(context.seed, "init", "head"):
            self.head = linear_head(self.backbone, context.num_classes, features=2)
        self.stages = (training_stage(context.protocol),)

    def streams(self, clock: Clock) -> dict[str, SamplerConfig]:
        return {"train": UNIFORM, "reversed": REVERSED}

    def draws(self, clock: Clock, sizes: Sequence[int], generator: torch.Generator) -> dict[str, Tensor]:
        """``alpha`` [steps]: the same number in every step, on the device, since it changes with the epoch."""
        return {"alpha": torch.full((len(sizes),), emphasis(clock.epoch, clock.epochs))}

    def forward(self, batches: dict[str, Batch], draws: dict[str, Tensor], clock: Clock) -> Step:
        natural, rare, alpha = batches["train"], batches["reversed"], draws["alpha"]
        conventional = self.feature(natural.images, self.backbone.last_block)
        rebalancing = self.feature(rare.images, self.reversed_block)
        logits = self.combined(conventional, rebalancing, alpha)
        return Step(cross_entropy(logits, [(natural.labels, alpha), (rare.labels, 1 - alpha)]), {})

    def logits(self, images: Tensor) -> dict[str, Tensor]:
        trunk = self.backbone.trunk(images)
        conventional, rebalancing = (
            self.backbone.embed(block(trunk)) for block in (self.backbone.last_block, self.reversed_block)
        )
        return {"classifier": self.combined(conventional, rebalancing, alpha=0.5)}

    def feature(self, images: Tensor, block: nn.Module) -> Tensor:
        return self.backbone.embed(block(self.backbone.trunk(images)))

    def combined(self, conventional: Tensor, rebalancing: Tensor, alpha: Tensor | float) -> Tensor:
        weighted = (self.factor * alpha * conventional, self.factor * (1 - alpha) * rebalancing)
        logits: Tensor = self.head(torch.cat(weighted, dim=1))
        return logits


# --- GLMC -----------------------------------------------------------------------------------


PROJECTED = 128


class GlobalLocalMixture(Method):
    """GLMC (Du et al. 2023): a mixup and a CutMix of two views, which are to look alike, and labels that gain weights.

    The classifier of the re-weighted labels predicts; the other one is shown beside it.
    """

    heads = ("balanced", "plain")
    primary_head = "balanced"
    class_weights: Tensor

    def __init__(self, context: Context) -> None:
        super().__init__()
        assert isinstance(context.config, GlobalLocalMixtureConfig)
        self.config = context.config
        _, height, width = context.image_shape
        self.image_size = height, width
        with initialised_at(context.seed, "init", "backbone"):
            self.backbone = context.build_backbone()
        with initialised_at(context.seed, "init", "head"):
            self.plain_head = linear_head(self.backbone, context.num_classes)
        with initialised_at(context.seed, "init", "balanced_head"):
            self.balanced_head = linear_head(self.backbone, context.num_classes)
        with initialised_at(context.seed, "init", "projection"):
            self.projection = LinearHead(self.backbone.feature_dim, PROJECTED)
            self.prediction = LinearHead(PROJECTED, PROJECTED)
        weights = normalized_weights(context.counts, self.config.label_power)
        self.register_buffer("class_weights", weights, persistent=False)
        self.stages = (training_stage(context.protocol),)

    def streams(self, clock: Clock) -> dict[str, SamplerConfig]:
        """Images as they come and by 1 / n^a, a = ``sampling_power``, with a second view of each."""
        partner = power(1 - self.config.sampling_power)
        seconds = {"second": View.again("train", "protocol"), "second_partner": View.again("partner", "protocol")}
        return {"train": UNIFORM, "partner": partner, **seconds}

    def draws(self, clock: Clock, sizes: Sequence[int], generator: torch.Generator) -> dict[str, Tensor]:
        """``share`` [steps], what an image keeps in both mixtures, ``box`` [steps, 4], and ``alpha`` [steps]."""
        lam = beta_draws(self.config.mixup_alpha, len(sizes), generator)
        row, column = (torch.randint(side, (len(sizes),), generator=generator) for side in self.image_size)
        box = clipped_boxes(lam.double(), row, column, self.image_size, up=True)
        return {"share": lam, "box": box, "alpha": torch.full((len(sizes),), emphasis(clock.epoch, clock.epochs))}

    def forward(self, batches: dict[str, Batch], draws: dict[str, Tensor], clock: Clock) -> Step:
        lam, alpha = draws["share"], draws["alpha"]
        first, partner = batches["train"], batches["partner"]
        targets: Targets = [(first.labels, lam), (partner.labels, 1 - lam)]
        mixed = lam * first.images + (1 - lam) * partner.images
        pasted = paste(batches["second"].images, batches["second_partner"].images, draws["box"])
        features = [self.backbone(images) for images in (mixed, pasted)]
        losses = [
            torch.stack([class_weighted(plain, head(feature), targets, weights, "mean") for feature in features]).sum()
            for head, weights in ((self.plain_head, None), (self.balanced_head, self.class_weights))
        ]
        apart = self.inconsistency(*features)
        loss = alpha * losses[0] + (1 - alpha) * losses[1] + self.config.consistency * apart
        return Step(loss, {"loss_plain": losses[0].detach(), "inconsistency": apart.detach()})

    def inconsistency(self, first: Tensor, second: Tensor) -> Tensor:
        """Minus the cosines of what is predicted of each mixture and the other's projection, whose gradient is cut."""
        projected = [self.projection(feature) for feature in (first, second)]
        predicted = [self.prediction(one) for one in projected]
        cosines = [
            F.cosine_similarity(ours, theirs.detach()).mean()
            for ours, theirs in zip(predicted, projected[::-1], strict=True)
        ]
        return -(cosines[0] + cosines[1])

    def logits(self, images: Tensor) -> dict[str, Tensor]:
        feature = self.backbone(images)
        return {"balanced": self.balanced_head(feature), "plain": self.plain_head(feature)}
