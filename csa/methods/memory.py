"""The parts of OLTR (Liu et al. 2019): modulated attention, a classifier with a memory, and its centroid loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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

    def __init__(self, channels: int, places: int) -> None:
        super().__init__()
        inner = max(channels // 2, 1)
        self.value, self.query, self.key = (nn.Conv2d(channels, inner, 1) for _ in range(3))
        self.back = nn.Conv2d(inner, channels, 1, bias=False)
        self.spatial = nn.Linear(channels * places, places)
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
