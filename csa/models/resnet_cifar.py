"""ResNet-32 for small images: parameter-free shortcuts, a 64-d feature (METHOD: Recipes)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from csa.models.backbone import Normalize, StagedBackbone, kaiming_normal


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
    """A 3x3 stem and three stages of five blocks with 16, 32 and 64 channels."""

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
