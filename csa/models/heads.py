"""Classifiers on a backbone's feature."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from csa.models.backbone import kaiming_normal

if TYPE_CHECKING:
    from torch import Tensor

    from csa.models.backbone import Backbone


class LinearHead(nn.Linear):
    """Logits [B, K] in its weights' precision, float32, whatever the backbone computes in.

    Rounded to bf16 the two largest logits of some images are equal: of 1.5 in 100 on CIFAR-100-LT after 15 epochs
    of ce, see ``benchmarks/RESULTS.md``.
    """

    def forward(self, feature: Tensor) -> Tensor:
        with torch.autocast(feature.device.type, enabled=False):
            return super().forward(feature.to(self.weight.dtype))


class Projection(nn.Sequential):
    """Layers after the backbone that compute in float32, as classifiers do: a temperature magnifies what they say.

    Measured on an H200: with hidden layers in bf16 a graph's weights were not those of eager steps.
    """

    def forward(self, feature: Tensor) -> Tensor:
        with torch.autocast(feature.device.type, enabled=False):
            projected: Tensor = super().forward(feature.float())  # type: ignore[no-untyped-call]
        return projected


def linear_head(backbone: Backbone, num_classes: int, features: int = 1) -> nn.Linear:
    """A linear classifier for ``backbone``'s feature, its weights drawn by the backbone's own rule.

    features: how many features, one after the other, it reads.
    """
    head = LinearHead(features * backbone.feature_dim, num_classes)
    if backbone.initial_weights == "kaiming_normal":
        kaiming_normal(head)
    return head


class NormalizedLinear(nn.Module):
    """Cosines of the feature with each class's weight (BASELINES 3.4), [B, K] in [-1, 1]; no bias, in float32."""

    def __init__(self, features: int, num_classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(F.normalize(torch.empty(num_classes, features).uniform_(-1, 1)))

    def forward(self, feature: Tensor) -> Tensor:
        with torch.autocast(feature.device.type, enabled=False):
            return F.linear(F.normalize(feature.float()), F.normalize(self.weight))


def normalized_head(backbone: Backbone, num_classes: int) -> NormalizedLinear:
    return NormalizedLinear(backbone.feature_dim, num_classes)
