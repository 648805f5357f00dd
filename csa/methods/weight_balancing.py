"""Weight balancing (Alshammari et al. 2022): a classifier re-trained with strong weight decay inside a norm ball."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

from csa.config.method_schema import WeightBalancingConfig
from csa.methods.classifier import Classifier
from csa.methods.cross_entropy import trained_by_cross_entropy
from csa.methods.losses import class_weights
from csa.methods.method import Clock, Context, Stage, Step
from csa.methods.stages import UNIFORM, cosine, training_stage

if TYPE_CHECKING:
    from torch import Tensor

    from csa.config.schema import SamplerConfig
    from csa.data.batch import Batch

REPRESENTATION, CLASSIFIER = 0, 1


class WeightBalancing(Classifier):
    """Stage one is ``ce`` on uniform batches (whose weight decay is the protocol's).

    Stage two goes on with its classifier alone, whose weights are brought back into the ball before every step and
    before they are evaluated: projected gradient descent. Batch-norm's statistics go on moving, as released.
    """

    head: nn.Linear
    class_weights: Tensor
    radius: Tensor

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        assert isinstance(context.config, WeightBalancingConfig)
        self.config, self.in_ball = context.config, False
        _, epochs = self.config.stage_epochs(context.protocol)
        weights = class_weights("effective_number", context.counts, self.config.beta)
        self.register_buffer("class_weights", weights, persistent=False)
        self.stages = (
            training_stage(context.protocol, trained_by_cross_entropy(UNIFORM)),
            Stage("classifier", epochs, cosine(self.config.lr, epochs)),
        )

    def enter_stage(self, stage: int) -> None:
        self.backbone.requires_grad_(stage == REPRESENTATION)
        if stage == CLASSIFIER:
            self.in_ball = True
            self.register_buffer("radius", torch.ones((), device=self.head.weight.device))

    def prepare(self, stage: int, loader: object) -> None:
        """The ball's radius, from the norms of the classes that stage one leaves."""
        if stage == CLASSIFIER:
            norms = self.head.weight.norm(dim=1)
            self.radius.copy_(norms.min() + self.config.max_norm * (norms.max() - norms.min()))

    def parameter_groups(self, stage: int) -> list[dict[str, Any]]:
        if stage == REPRESENTATION:
            return super().parameter_groups(stage)
        return [{"params": list(self.head.parameters()), "weight_decay": self.config.weight_decay}]

    def streams(self, clock: Clock) -> dict[str, SamplerConfig]:
        return {"train": UNIFORM}

    def forward(self, batches: dict[str, Batch], draws: dict[str, Tensor], clock: Clock) -> Step:
        if clock.stage == REPRESENTATION:
            return super().forward(batches, draws, clock)
        images, labels = batches["train"]
        with torch.no_grad():
            self.head.weight.copy_(self.projected())
        return Step(balanced_binary(self.head(self.backbone(images)), labels, self.class_weights), {})

    def projected(self) -> Tensor:
        """The weights [K, F], those of a class beyond the ball's radius on its surface."""
        return within(self.head.weight, self.radius)

    def logits(self, images: Tensor) -> dict[str, Tensor]:
        if not self.in_ball:
            return super().logits(images)
        feature = self.backbone(images)
        with torch.autocast(feature.device.type, enabled=False):
            return {"classifier": F.linear(feature.to(self.head.weight.dtype), self.projected(), self.head.bias)}


def within(weight: Tensor, radius: Tensor) -> Tensor:
    """Rows [K, F] of a norm above ``radius`` scaled down to it."""
    norms: Tensor = weight.norm(dim=1, keepdim=True)
    return weight * (radius / norms.clamp_min(1e-12)).clamp_max(1)


def balanced_binary(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """The released class-balanced loss: binary cross-entropies of the softmax's K probabilities, mean over B and K.

    logits: [B, K]; weights: of the classes, [K]; an image's own class weighs all of its K terms.
    """
    logs = logits.float().log_softmax(1)
    own = F.one_hot(labels, logits.shape[1]).bool()
    against = torch.log1p(-logs.exp().clamp_max(1 - 1e-7))
    return -(weights[labels][:, None] * torch.where(own, logs, against)).mean()
