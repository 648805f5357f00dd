"""OLTR (Liu et al. 2019): a plain stage, then attention and a memory of class centroids, all trained."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from csa.config.method_schema import OltrConfig
from csa.methods.losses import cross_entropy
from csa.methods.memory import MemoryClassifier, ModulatedAttention, centroid_loss, class_sums
from csa.methods.method import Method, Stage, Step
from csa.methods.schedules import learning_rate
from csa.methods.streams import UNIFORM, class_aware
from csa.models.backbone import places_of_map
from csa.models.heads import linear_head
from csa.randomness import initialised_at

if TYPE_CHECKING:
    from torch import Tensor

    from csa.config.schema import SamplerConfig
    from csa.data.batch import Batch
    from csa.data.loader import Loader
    from csa.methods.method import Clock, Context

PLAIN, MEMORY = 0, 1
PREPARATION_BATCH = 250


class Oltr(Method):
    heads = ("classifier",)
    primary_head = "classifier"

    def __init__(self, context: Context) -> None:
        super().__init__()
        assert isinstance(context.config, OltrConfig)
        self.config = context.config.resolved(context.protocol)
        with initialised_at(context.seed, "init", "backbone"):
            self.backbone = context.build_backbone()
        with initialised_at(context.seed, "init", "head"):
            self.head = linear_head(self.backbone, context.num_classes)
        self.backbone.need_map("OLTR's attention")
        features = self.backbone.feature_dim
        channels, places = places_of_map(self.backbone, context.image_shape)
        with initialised_at(context.seed, "init", "memory"):
            self.attention = ModulatedAttention(channels, places)
            self.added_layer = nn.Linear(features, features)
            self.memory = MemoryClassifier(features, context.num_classes)
        self.centroids = nn.Parameter(torch.zeros(context.num_classes, features))
        self.stage = PLAIN
        first, second = self.config.stage_epochs(context.protocol)
        plain = replace(context.protocol, epochs=max(first, 1))
        self.stages = (
            Stage("train", first, learning_rate(plain)),
            Stage("memory", second, lambda epoch: self.config.lr * 0.1 ** int(3 * epoch / max(second, 1))),
        )

    # --- stages -----------------------------------------------------------------------------

    def enter_stage(self, stage: int) -> None:
        self.stage = stage
        for part in (self.attention, self.added_layer, self.memory):
            part.requires_grad_(stage == MEMORY)
        self.centroids.requires_grad_(stage == MEMORY)
        self.head.requires_grad_(stage == PLAIN)
        if stage == MEMORY:
            self.memory.hallucinator.load_state_dict(self.head.state_dict())

    def prepare(self, stage: int, loader: Loader) -> None:
        """The centroids start as class means of the stage's features."""
        if stage == PLAIN:
            return
        total, count = torch.zeros_like(self.centroids), torch.zeros_like(self.centroids[:, :1])
        for images, labels in loader.training_batches(PREPARATION_BATCH):
            summed, images_of_class = class_sums(self.feature(images), labels, len(self.centroids))
            total += summed
            count += images_of_class[:, None]
        self.centroids.copy_(total / count.clamp_min(1))

    def parameter_groups(self, stage: int) -> list[dict[str, Any]]:
        if stage == PLAIN:
            return [{"params": [*self.backbone.parameters(), *self.head.parameters()]}]
        slow = [*self.backbone.parameters(), *self.attention.parameters(), *self.added_layer.parameters()]
        return [
            {"params": list(self.memory.parameters())},
            {"params": slow, "lr_factor": self.config.slow},
            {"params": [self.centroids], "lr_factor": self.config.slow},
        ]

    def streams(self, clock: Clock) -> dict[str, SamplerConfig]:
        return {"train": UNIFORM if clock.stage == PLAIN else class_aware(self.config.images_per_visit, "images")}

    # --- a step -----------------------------------------------------------------------------

    def forward(self, batches: dict[str, Batch], draws: dict[str, Tensor], clock: Clock) -> Step:
        images, labels = batches["train"]
        feature = self.feature(images)
        loss = cross_entropy(self.classified(feature), [(labels, 1.0)])
        if clock.stage == PLAIN:
            return Step(loss, {})
        near = centroid_loss(feature, self.centroids, labels)
        return Step(loss + self.config.centroid_weight * near, {"loss_centroids": near.detach()})

    def feature(self, images: Tensor) -> Tensor:
        feature_map = self.backbone.feature_map(images)
        if self.stage == PLAIN:
            return self.backbone.embed(feature_map)
        embedded: Tensor = self.added_layer(self.backbone.embed(self.attention(feature_map)))
        return embedded.relu()

    def classified(self, feature: Tensor) -> Tensor:
        logits: Tensor = self.head(feature) if self.stage == PLAIN else self.memory(feature, self.centroids)
        return logits

    def logits(self, images: Tensor) -> dict[str, Tensor]:
        return {"classifier": self.classified(self.feature(images))}
