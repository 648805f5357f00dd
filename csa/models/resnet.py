"""ResNet-10, ResNet-18 and ResNet-50 from torchvision's blocks, with a stem that suits the image size."""

from __future__ import annotations

from typing import Any

from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from csa.models.backbone import Normalize, StagedBackbone

SMALL_IMAGE = 64
"""Largest side in pixels for which ``stem=auto`` is the small one."""


class TorchvisionResNet(StagedBackbone):
    """stem: small (3x3, stride 1, no pooling), large (7x7, stride 2, max-pooling; torchvision's own) or auto."""

    initial_weights = "library"

    def __init__(
        self, block: Any, blocks: list[int], channels: int, mean: tuple[float, ...], std: tuple[float, ...], small: bool
    ) -> None:
        super().__init__()
        network = ResNet(block, blocks)
        self.feature_dim = network.fc.in_features
        self.normalize = Normalize(mean, std)
        kernel, stride = (3, 1) if small else (7, 2)
        convolution = nn.Conv2d(channels, 64, kernel, stride, padding=kernel // 2, bias=False)
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")  # as torchvision's
        pool = nn.Identity() if small else network.maxpool
        self.stem = nn.Sequential(convolution, network.bn1, network.relu, pool)
        self.stages = nn.Sequential(network.layer1, network.layer2, network.layer3, network.layer4)


class ResNet10(TorchvisionResNet):
    """One basic block a stage, 512-d feature."""

    def __init__(
        self, channels: int, height: int, width: int, mean: tuple[float, ...], std: tuple[float, ...], stem: str | None
    ) -> None:
        super().__init__(BasicBlock, [1, 1, 1, 1], channels, mean, std, _is_small(stem, height, width))


class ResNet18(TorchvisionResNet):
    """Two basic blocks a stage, 512-d feature."""

    def __init__(
        self, channels: int, height: int, width: int, mean: tuple[float, ...], std: tuple[float, ...], stem: str | None
    ) -> None:
        super().__init__(BasicBlock, [2, 2, 2, 2], channels, mean, std, _is_small(stem, height, width))


class ResNet50(TorchvisionResNet):
    """Bottleneck blocks, 2048-d feature."""

    def __init__(
        self, channels: int, height: int, width: int, mean: tuple[float, ...], std: tuple[float, ...], stem: str | None
    ) -> None:
        super().__init__(Bottleneck, [3, 4, 6, 3], channels, mean, std, _is_small(stem, height, width))


def _is_small(stem: str | None, height: int, width: int) -> bool:
    return stem == "small" or (stem in {"auto", None} and max(height, width) <= SMALL_IMAGE)
