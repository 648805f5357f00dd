"""Classifiers on a backbone's feature."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from csa.models.weights import kaiming_normal

if TYPE_CHECKING:
    from csa.models.backbone import Backbone


def linear_head(backbone: Backbone, num_classes: int) -> nn.Linear:
    """A linear classifier for ``backbone``'s feature, its weights drawn by the backbone's own rule."""
    head = nn.Linear(backbone.feature_dim, num_classes)
    if backbone.initial_weights == "kaiming_normal":
        kaiming_normal(head)
    return head
