"""A network as the paper's, of a quarter of its layers."""

from __future__ import annotations

from typing import Any

from torch import nn

from csa.models.networks import ResNet32

SMALL_RESNET = "backbone.target=small_network.ResNet8"


class ResNet8(ResNet32):
    """With one block a stage."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.stages = nn.Sequential(*(stage[:1] for stage in self.stages))
