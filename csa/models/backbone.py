"""What a method may ask of a backbone, and the one that a configuration names."""

from __future__ import annotations

import re
from abc import abstractmethod
from dataclasses import fields
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from csa.config.blocks import named_class
from csa.config.faults import Fault, UserError
from csa.config.schema import BackboneConfig

if TYPE_CHECKING:
    from collections.abc import Sequence


class Normalize(nn.Module):
    """(x - mean) / std per channel: the network's first layer, so that a saved model takes plain images."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std


class Backbone(nn.Module):
    """Images [B, C, H, W] in [0, 1] -> trunk -> last feature map [B, F, h, w] -> feature [B, feature_dim].

    global_pooling: whether ``embed`` is global average pooling, so that Grad-CAM under a linear
    classifier has a closed form (METHOD: CSA 3). initial_weights: the rule that drew the weights, by
    which a classifier on this backbone is drawn too (``library``: torch's and torchvision's defaults).
    has_map: false of a network that has a feature and no map. random: whether training passes draw (drop path).
    """

    feature_dim: int
    global_pooling: bool
    initial_weights: Literal["kaiming_normal", "library"]
    has_map: bool = True
    random: bool = False

    def need_map(self, who: str) -> None:
        """Raises UserError where there is no feature map, which ``who`` reads."""
        if not self.has_map:
            problem = f"has no convolutional feature map that is pooled, which {who} reads"
            raise UserError(Fault("backbone.model", getattr(self, "model", None), problem, "a convolutional network"))

    @abstractmethod
    def trunk(self, images: Tensor) -> Tensor:
        """Normalisation and all convolutions before the last block, which reads this."""

    @property
    @abstractmethod
    def last_block(self) -> nn.Module:
        """What turns the trunk's output into the feature map; methods with several branches have one for each."""

    def early(self, images: Tensor, late_stages: int) -> Tensor:
        """What ``late`` reads: a network of stages computes all but its last ones, another all but its last block."""
        return self.trunk(images)

    def late(self, late_stages: int) -> nn.Module:
        """The last stages, which give the feature map; methods with several experts have some for each."""
        return self.last_block

    def feature_map(self, images: Tensor) -> Tensor:
        """Normalisation and all convolutions, [B, F, h, w]."""
        feature_map: Tensor = self.last_block(self.trunk(images))
        return feature_map

    @abstractmethod
    def embed(self, feature_map: Tensor) -> Tensor:
        """The feature that a classifier reads, [B, feature_dim]."""

    def forward(self, images: Tensor) -> Tensor:
        return self.embed(self.feature_map(images))

    def layers(self) -> list[list[nn.Parameter]]:
        """Its weights from the first layer to the last: names of one layer are alike up to the first number."""
        layers: dict[str, list[nn.Parameter]] = {}
        for name, weights in self.named_parameters():
            numbered = re.match(r"(.*?\d+)(\.|$)", name)
            layers.setdefault(numbered[1] if numbered else name.rpartition(".")[0], []).append(weights)
        return list(layers.values())


class StagedBackbone(Backbone):
    """A stem, then stages of blocks, then global average pooling."""

    global_pooling = True
    normalize: Normalize
    stem: nn.Sequential
    stages: nn.Sequential

    def trunk(self, images: Tensor) -> Tensor:
        x = self.stages[:-1](self.stem(self.normalize(images)))
        trunk: Tensor = self._last_stage[:-1](x)
        return trunk

    @property
    def last_block(self) -> nn.Module:
        return self._last_stage[-1]

    def early(self, images: Tensor, late_stages: int) -> Tensor:
        x: Tensor = self.stages[:-late_stages](self.stem(self.normalize(images)))
        return x

    def late(self, late_stages: int) -> nn.Module:
        return self.stages[-late_stages:]

    @property
    def _last_stage(self) -> nn.Sequential:
        stage = self.stages[-1]
        assert isinstance(stage, nn.Sequential)
        return stage

    def embed(self, feature_map: Tensor) -> Tensor:
        return feature_map.mean((2, 3))


@torch.no_grad()
def places_of_map(backbone: Backbone, image_shape: tuple[int, int, int]) -> tuple[int, int]:
    """Channels and number of places, h * w, of the feature map of images [channels, height, width]."""
    backbone.eval()
    _, channels, height, width = backbone.feature_map(torch.zeros(1, *image_shape)).shape
    backbone.train()
    return channels, height * width


def build_backbone(
    config: BackboneConfig, image_shape: tuple[int, int, int], mean: Sequence[float], std: Sequence[float]
) -> Backbone:
    """A backbone with fresh weights (from torch's current generator) for images [channels, height, width].

    Raises:
        UserError: the images are too small for the network, or its class cannot be imported.
    """
    channels, height, width = image_shape
    if min(height, width) < config.min_size:
        problem = f"cannot take images of {height}x{width} pixels"
        raise UserError(Fault("backbone", config.name, problem, f"sides of at least {config.min_size} pixels"))
    known = [field.name for field in fields(BackboneConfig)]
    own = {field.name: getattr(config, field.name) for field in fields(config) if field.name not in known}
    target = named_class("backbone.target", config.target, Backbone)
    return target(channels, height, width, tuple(mean), tuple(std), config.stem, **own)


def kaiming_normal(network: nn.Module) -> None:
    """Kaiming normal (fan-in) weights in every convolution and linear layer; biases keep torch's default."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
