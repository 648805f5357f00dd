"""Rules that make a training image out of two; their random numbers are drawn by the caller."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from csa.methods.losses import Targets


def mixup(images: Tensor, labels: Tensor, share: Tensor, order: Tensor) -> tuple[Tensor, Targets]:
    """Each image with its partner, one permutation for images and labels (Zhang et al. 2018).

    images: [B, C, H, W]; share: scalar in [0, 1], what an image keeps of itself; order: [B], a permutation.
    """
    mixed = share * images + (1 - share) * images[order]
    return mixed, [(labels, share), (labels[order], 1 - share)]


def mixup_draws(alpha: float, sizes: Sequence[int], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Shares ~ Beta(alpha, alpha), [steps], and permutations, [steps, B] with B the largest size.

    The first ``sizes[i]`` entries of row i permute 0 .. sizes[i] - 1; what follows is padding.
    """
    keys = torch.rand(len(sizes), max(sizes), generator=generator)
    places = torch.arange(max(sizes))
    absent = places >= torch.tensor(sizes)[:, None]
    order = torch.where(absent, 1.0 + places, keys).argsort(1)
    return beta_draws(alpha, len(sizes), generator), order


def beta_draws(alpha: float, steps: int, generator: torch.Generator) -> Tensor:
    """Shares ~ Beta(alpha, alpha), [steps]."""
    seed = int(torch.randint(2**62, (), generator=generator))  # torch has no Beta that takes a generator
    share = np.random.Generator(np.random.PCG64(seed)).beta(alpha, alpha, steps)
    return torch.from_numpy(share).float()


def blend_context(images: Tensor, contexts: Tensor, masks: Tensor, share: Tensor) -> Tensor:
    """``lambda M * context + (1 - lambda M) * image``: a new background, the label stays (METHOD: CSA 5).

    images, contexts: [B, C, H, W]; masks: [B, 1, H, W], 1 where the context is background; share: lambda.
    """
    weight = share * masks
    return weight * contexts + (1 - weight) * images


def remix_share(share: Tensor, own: Tensor, partner: Tensor, kappa: float, tau: float) -> Tensor:
    """What an image keeps of its label, [B]: none or all of it where the minority is clear (Chou et al. 2020, eq. 10).

    share: what it keeps of its pixels, scalar or [B]; own, partner: sizes of the two classes, [B].
    """
    to_partner = (own >= kappa * partner) & (share < tau)
    to_own = (kappa * own <= partner) & (1 - share < tau)
    return torch.where(to_partner, 0.0, torch.where(to_own, 1.0, share))


# --- CutMix ---------------------------------------------------------------------------------


def box_draws(
    steps: int, image_size: tuple[int, int], probability: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """One box a step and what its image keeps of its label.

    image_size: height, width. The image's share is ~ U(0, 1), a box of the remaining area is centred
    uniformly and clipped; with probability ``1 - probability`` it is empty. Returns boxes [steps, 4]
    (top, bottom, left, right) and the shares that the clipped boxes leave, [steps].
    """
    height, width = image_size
    share = torch.rand(steps, generator=generator, dtype=torch.float64)
    centres = [torch.randint(side, (steps,), generator=generator) for side in (height, width)]
    boxes = clipped_boxes(share, centres[0], centres[1], image_size)
    boxes *= (torch.rand(steps, generator=generator) < probability)[:, None]
    top, bottom, left, right = boxes.unbind(1)
    return boxes, 1 - (bottom - top) * (right - left) / (height * width)


def clipped_boxes(
    share: Tensor, row: Tensor, column: Tensor, image_size: tuple[int, int], *, up: bool = False
) -> Tensor:
    """Boxes around (row, column) of about ``1 - share`` of the area, as CutMix truncates and clips them; [steps, 4].

    up: sides are rounded up before they are halved, in place of truncated.
    """
    sides = []
    for centre, length in zip((row, column), image_size, strict=True):
        side = length * (1 - share).sqrt()
        half = (side.ceil() if up else side).long() // 2
        sides += [(centre - half).clamp(0, length), (centre + half).clamp(0, length)]
    return torch.stack(sides, 1)


def paste(background: Tensor, foreground: Tensor, box: Tensor) -> Tensor:
    """The foreground's pixels inside the box [4] of every image, the background's outside; both [B, C, H, W]."""
    height, width = background.shape[2:]
    rows = torch.arange(height, device=background.device)
    columns = torch.arange(width, device=background.device)
    top, bottom, left, right = box.unbind()
    inside = ((rows >= top) & (rows < bottom))[:, None] & ((columns >= left) & (columns < right))
    return torch.where(inside, foreground, background)
