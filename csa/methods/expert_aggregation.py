"""Weights of experts from unlabelled test images (Zhang et al. 2022): two views of one are to be classified alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from csa.data.resized_crop import SimAugment
from csa.randomness import torch_generator

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from csa.data.loader import Loader

EPOCHS, BATCH, LR, MOMENTUM, DECAY = 5, 128, 0.1, 0.9, 5e-4
LEAST = 0.05
"""Training ends when an expert's share falls below, as released."""
SHARES, JITTER = (0.5, 1.0), 0.4


def aggregation_weights(logits: Callable[[Tensor], Tensor], loader: Loader, experts: int, seed: int) -> Tensor:
    """Shares of the experts, [experts], that sum to 1; logits: of images, [experts, B, K], without gradients.

    Two views of every test image by SimAugment, and the mean cosine of their aggregated probabilities, which is
    ascended by SGD with Nesterov's momentum. (The released views are crops of the padded image; these are resized.)
    """
    weights = torch.full((experts,), 1 / experts, requires_grad=True)
    update = torch.optim.SGD([weights], LR, MOMENTUM, weight_decay=DECAY, nesterov=True)
    for epoch in range(EPOCHS):
        generator = torch_generator(seed, "aggregation", epoch)
        for images, _ in loader.test_batches(BATCH, whole=True):
            first, second = (logits(_view(images, generator)).cpu() for _ in range(2))
            with torch.enable_grad():
                (weights.grad,) = torch.autograd.grad(-stability(weights.softmax(0), first, second), weights)
            update.step()
        if weights.softmax(0).min() < LEAST:
            break
    return weights.detach().softmax(0)


def stability(shares: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Mean cosine of the aggregated probabilities of two views, whose logits are [experts, B, K]."""
    one, other = ((shares.view(-1, 1, 1) * logits).sum(0).softmax(1) for logits in (first, second))
    return F.cosine_similarity(one, other, dim=1, eps=1e-6).mean()


def _view(images: Tensor, generator: torch.Generator) -> Tensor:
    pixels = (255 * images).round().to(torch.uint8).permute(0, 2, 3, 1)
    height, width = images.shape[2:]
    augment = SimAugment(height, width, SHARES, JITTER, flip=True)
    draws = augment.draw(len(images), generator).to(images.device)
    return augment(pixels, torch.arange(len(images), device=images.device), draws)
