"""LeNet with a 2-d feature layer, the MNIST family's network (METHOD: Recipes)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from csa.models.backbone import Backbone, Normalize, kaiming_normal


class LeNet(Backbone):
    """Two 5x5 convolutions (6, 16 channels), each followed by 2x2 max-pooling, then 120, 84 and 2 units.

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
