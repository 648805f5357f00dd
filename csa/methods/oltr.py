"""OLTR (Liu et al. 2019): a plain stage, then attention and a memory of class centroids, all trained."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from csa.config.method_schema import OltrConfig
from csa.methods.classifier import Classifier
from csa.methods.losses import cross_entropy
from csa.methods.method import Stage, Step
from csa.methods.stages import UNIFORM, class_aware, learning_rate
from csa.models.backbone import places_of_map
from csa.randomness import initialised_at

if TYPE_CHECKING:
    from csa.config.schema import SamplerConfig
    from csa.data.batch import Batch
    from csa.data.loader import Loader
    from csa.methods.method import Clock, Context

PLAIN, MEMORY = 0, 1
PREPARATION_BATCH = 250


class Oltr(Classifier):
    def __init__(self, context: Context) -> None:
        super().__init__(context)
        assert isinstance(context.config, OltrConfig)
        self.config = context.config.resolved(context.protocol)
        self.backbone.need_map("OLTR's attention")
        features = self.backbone.feature_dim
        channels, positions = places_of_map(self.backbone, context.image_shape)
        with initialised_at(context.seed, "init", "memory"):
            self.attention = ModulatedAttention(channels, positions)
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


# --- parts ----------------------------------------------------------------------------------


REACH = 10.0
SCALE = 16.0
MARGIN = 10.0
REPEL = 0.01
TINY = 1e-6
"""A feature may lie on a centroid, or be all zero behind a ReLU; nothing divides by 0."""


class ModulatedAttention(nn.Module):
    """Self-attention over places [h, w] of a feature map, weighted by a map of the whole: ``A * attention + x``.

    The last convolution starts at zero, so that attention starts as identity. (In the released code a later
    initialisation of all convolutions undoes that.)
    """

    def __init__(self, channels: int, positions: int) -> None:
        super().__init__()
        inner = max(channels // 2, 1)
        self.value, self.query, self.key = (nn.Conv2d(channels, inner, 1) for _ in range(3))
        self.back = nn.Conv2d(inner, channels, 1, bias=False)
        self.spatial = nn.Linear(channels * positions, positions)
        nn.init.zeros_(self.back.weight)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        value, query, key = (layer(x).flatten(2) for layer in (self.value, self.query, self.key))
        weights = (query.transpose(1, 2) @ key).float().softmax(2).to(value.dtype)
        attended = self.back((weights @ value.transpose(1, 2)).transpose(1, 2).reshape(batch, -1, height, width))
        modulation = self.spatial(x.flatten(1)).float().softmax(1).view(batch, 1, height, width)
        modulated: Tensor = x + modulation * attended
        return modulated


class MemoryClassifier(nn.Module):
    """Features [B, F] enriched from class centroids [K, F], scaled by how near they are to one: logits [B, K]."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.hallucinator = nn.Linear(features, classes)
        self.selector = nn.Linear(features, features)
        self.weight = nn.Parameter(torch.empty(classes, features).uniform_(-1, 1) / features**0.5)

    def forward(self, feature: Tensor, centroids: Tensor) -> Tensor:
        """The centroids are read as data: no gradient reaches them."""
        with torch.autocast(feature.device.type, enabled=False):
            feature, centroids = feature.float(), centroids.detach()
            memory = self.hallucinator(feature).softmax(1) @ centroids
            enriched = feature + self.selector(feature).tanh() * memory
            return squashed_cosine(reachability(feature, centroids)[:, None] * enriched, self.weight)


def reachability(feature: Tensor, centroids: Tensor) -> Tensor:
    """10 over the distance to the nearest centroid, [B]."""
    return REACH / torch.cdist(feature, centroids, compute_mode=PAIRWISE).amin(1).clamp_min(TINY)


PAIRWISE = "donot_use_mm_for_euclid_dist"
"""Differences first: by products, small distances would be rounding."""


def squashed_cosine(vectors: Tensor, weight: Tensor) -> Tensor:
    """``16 v / (1 + |v|) . w / |w|``: vectors [B, F], weight [K, F]."""
    length = vectors.square().sum(1, keepdim=True).clamp_min(TINY**2).sqrt()
    return SCALE * (vectors / (1 + length)) @ F.normalize(weight, dim=1).T


def centroid_loss(feature: Tensor, centroids: Tensor, labels: Tensor) -> Tensor:
    """Attraction to the own centroid, and 0.01 times a hinge on the mean squared distance to the others."""
    with torch.autocast(feature.device.type, enabled=False):
        feature = feature.float()
        attract: Tensor = _Attract.apply(feature, centroids, labels)
        squared = torch.cdist(feature, centroids, compute_mode=PAIRWISE).square()
        others = torch.ones_like(squared).scatter(1, labels[:, None], 0.0)
        return attract + REPEL * (MARGIN - (squared * others).mean()).clamp_min(0)


class _Attract(torch.autograd.Function):
    """``sum |f_i - c_y|^2 / 2B`` with a gradient of its own for the centroids, as released.

    That is divided by 1 + the number of the class's images in the batch, so that frequent classes move no faster, and
    by B. It is not multiplied by what comes from above: the weight of this loss is for the features alone.
    """

    @staticmethod
    def forward(ctx: Any, feature: Tensor, centroids: Tensor, labels: Tensor) -> Tensor:
        difference = centroids[labels] - feature
        ctx.save_for_backward(difference, labels)
        ctx.classes = len(centroids)
        return difference.square().sum() / (2 * len(feature))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        difference, labels = ctx.saved_tensors
        summed, counts = class_sums(difference, labels, ctx.classes)
        of_features = -gradients[0] * difference / len(labels)
        return of_features, summed / (1 + counts[:, None]) / len(labels), None


def class_sums(values: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """The sum of ``values`` [B, F] over the images of each class, [K, F] float32, and their number, int64 [K].

    labels: [B]. A product with ones and zeros: ``index_add`` adds atomically on a GPU, in another order every time.
    """
    with torch.autocast(values.device.type, enabled=False):
        members = F.one_hot(labels, num_classes)
        return members.T.float() @ values.float(), members.sum(0)
