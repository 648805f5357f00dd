"""BBN (Zhou et al. 2020): one trunk, two last blocks, and an emphasis that moves from natural to reversed batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from csa.config.method_schema import BilateralConfig
from csa.methods.losses import cross_entropy
from csa.methods.method import Method, Step
from csa.methods.stages import REVERSED, UNIFORM, training_stage
from csa.models.heads import linear_head
from csa.randomness import initialised_at

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from csa.config.schema import SamplerConfig
    from csa.data.batch import Batch
    from csa.methods.method import Clock, Context


def emphasis(epoch: int, epochs: int) -> float:
    """alpha, the weight of the conventional branch: 1 in epoch 0, towards 0 on a parabola."""
    return 1 - (epoch / epochs) ** 2


class BilateralBranch(Method):
    """The trunk sees the two batches in passes of their own, so batch-norm sees their distributions apart.

    One linear layer reads both features, which is two classifiers with one bias.
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
