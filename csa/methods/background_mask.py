"""Where an image shows background: Grad-CAM of its own class, turned round (METHOD: CSA 3).

A class map says at each place of the last feature map how much it speaks for the image's class. With
global average pooling and a linear classifier behind that feature map, Grad-CAM's weights are the
classifier's row divided by h * w, so the map is that row's own response; elsewhere a gradient is taken.
The constant cancels when the map is scaled, hence both give one mask. Everything here is float32, under
autocast too: the scaling by minimum and maximum does not stand bf16.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor, nn

    from csa.models.backbone import Backbone

FLAT = 1e-6
"""A map whose values differ by less than this share of its maximum is flat: the rest is rounding."""


def class_map(backbone: Backbone, head: nn.Linear, feature_map: Tensor, labels: Tensor) -> Tensor:
    """Each image's map of its own class, [B, h, w]; feature_map: [B, F, h, w], outside any graph."""
    if backbone.global_pooling:
        return linear_class_map(feature_map, head.weight, labels)
    with torch.enable_grad():
        feature_map = feature_map.detach().requires_grad_()
        return gradient_class_map(feature_map, head(backbone.embed(feature_map)).gather(1, labels[:, None]))


def linear_class_map(feature_map: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """Response of each image's own classifier row, [B, h, w].

    feature_map: [B, F, h, w], pooled by its mean and classified by ``weight`` [K, F]; labels: [B].
    """
    with torch.autocast(feature_map.device.type, enabled=False):
        return torch.einsum("bfhw,bf->bhw", feature_map.float(), weight[labels].float())


def gradient_class_map(feature_map: Tensor, scores: Tensor) -> Tensor:
    """Grad-CAM for any network behind the feature map, [B, h, w]; no parameter receives a gradient.

    feature_map: [B, F, h, w], requires grad; scores: [B], each image's class score, computed from it.
    Frees the graph between the two.
    """
    (gradient,) = torch.autograd.grad(scores.sum(), feature_map)
    with torch.autocast(feature_map.device.type, enabled=False):
        return torch.einsum("bfhw,bf->bhw", feature_map.detach().float(), gradient.float().mean((2, 3)))


def background_mask(class_map: Tensor, size: tuple[int, int]) -> Tensor:
    """1 where nothing speaks for the class, 0 where the most does: ``(1 - cam)^2``, [B, 1, H, W] in [0, 1].

    class_map: [B, h, w]; size: (H, W) of the images. A flat map points at no place, so it marks no object and
    the whole image counts as background: cam = 0, mask = 1. (The released code divides 0 by 0 there.)
    """
    with torch.autocast(class_map.device.type, enabled=False):
        evidence = class_map.float().relu()[:, None]
        lowest, highest = evidence.amin((2, 3), keepdim=True), evidence.amax((2, 3), keepdim=True)
        contrast = highest - lowest
        flat = contrast <= FLAT * highest
        cam = torch.where(flat, 0.0, (evidence - lowest) / torch.where(flat, 1.0, contrast))
        cam = F.interpolate(cam, size, mode="bicubic", align_corners=False).clamp(0, 1)
        return (1 - cam) ** 2
