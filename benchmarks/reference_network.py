"""ResNet-32 as one would write it down, in plain fp32 and contiguous memory, with two classifiers for CSA."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.stride, self.missing = stride, width - width_in

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.missing:
            half = self.missing // 2
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, half))
        return F.relu(out + x)


class Network(nn.Module):
    """Normalised images [B, 3, H, W] -> ``early`` -> ``late`` -> feature map [B, 64, H/4, W/4] -> feature [B, 64]."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        stem = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
        self.early = nn.Sequential(*stem, *_blocks(16, 16, 1), *_blocks(16, 32, 2))
        self.late = nn.Sequential(*_blocks(32, 64, 2))
        self.uniform = nn.Linear(64, classes)
        self.balanced = nn.Linear(64, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, images: Tensor) -> Tensor:
        """The feature that both classifiers read."""
        features: Tensor = self.late(self.early(images))
        return features.mean((2, 3))


def _blocks(width_in: int, width: int, stride: int) -> list[Block]:
    return [Block(width_in, width, stride), *(Block(width, width, 1) for _ in range(4))]
