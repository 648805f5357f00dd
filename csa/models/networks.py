"""The paper's networks for small images (METHOD: Recipes): LeNet and ResNet-32."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from csa.models.backbone import Backbone, Normalize, StagedBackbone, kaiming_normal


class LeNet(Backbone):
    """With a 2-d feature layer, the MNIST family's network.

    Two 5x5 convolutions (6, 16 channels), each followed by 2x2 max-pooling, then 120, 84 and 2 units.

    The feature map is the output of the last convolution after its ReLU and before pooling: the finest
    map from which everything that follows is read ([B, 16, 10, 10] for 28 x 28 images). The layers
    behind it are not linear, so Grad-CAM needs a gradient here.
    """

    feature_dim = 2
    global_pooling = False
    initial_weights = "kaiming_normal"

    def __init__(
        self, channels: int, height: int, width: int, mean: tuple[float, ...], std: tuple[float, ...], stem: str | None
    ) -> None:
        super().__init__()
        self.normalize = Normalize(mean, std)
        self.convolution1 = nn.Conv2d(channels, 6, 5, padding=2)
        self.convolution2 = nn.Conv2d(6, 16, 5)
        pooled = [(side // 2 - 4) // 2 for side in (height, width)]
        self.linear1 = nn.Linear(16 * pooled[0] * pooled[1], 120)
        self.linear2 = nn.Linear(120, 84)
        self.linear3 = nn.Linear(84, self.feature_dim)
        kaiming_normal(self)

    def trunk(self, images: Tensor) -> Tensor:
        return F.max_pool2d(F.relu(self.convolution1(self.normalize(images))), 2)

    @property
    def last_block(self) -> nn.Module:
        return nn.Sequential(self.convolution2, nn.ReLU())

    def embed(self, feature_map: Tensor) -> Tensor:
        x = torch.flatten(F.max_pool2d(feature_map, 2), 1)
        x = F.relu(self.linear2(F.relu(self.linear1(x))))
        feature: Tensor = self.linear3(x)
        return feature


# --- ResNet-32 ------------------------------------------------------------------------------


class Block(nn.Module):
    """Two 3x3 convolutions beside an identity.

    Where the shape changes, the identity keeps every second pixel and is padded with zero channels,
    half of them on each side (option A of He et al. 2016).
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.convolution1 = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels_out)
        self.convolution2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels_out)
        self.stride = stride
        self.padding = (channels_out - channels_in) // 2

    def forward(self, x: Tensor) -> Tensor:
        residual = self.norm2(self.convolution2(F.relu_(self.norm1(self.convolution1(x)))))
        return F.relu_(residual.add_(self.shortcut(x)))  # in place: no backward pass needs what stood there

    def shortcut(self, x: Tensor) -> Tensor:
        if self.stride == 1:
            return x
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding))


class ResNet32(StagedBackbone):
    """A 3x3 stem, three stages of five blocks with 16, 32 and 64 channels, a 64-d feature."""

    feature_dim = 64
    initial_weights = "kaiming_normal"

    def __init__(
        self, channels: int, height: int, width: int, mean: tuple[float, ...], std: tuple[float, ...], stem: str | None
    ) -> None:
        super().__init__()
        self.normalize = Normalize(mean, std)
        convolution = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.stem = nn.Sequential(convolution, nn.BatchNorm2d(16), nn.ReLU(inplace=True))
        self.stages = nn.Sequential(_stage(16, 16, stride=1), _stage(16, 32, stride=2), _stage(32, 64, stride=2))
        kaiming_normal(self)


def _stage(channels_in: int, channels_out: int, stride: int) -> nn.Sequential:
    first = Block(channels_in, channels_out, stride)
    return nn.Sequential(first, *(Block(channels_out, channels_out, 1) for _ in range(4)))
