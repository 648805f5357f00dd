"""Training images made of two: the rules, whose random numbers the caller draws; the methods mixup, Remix and CMO."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from csa.config.method_schema import CmoConfig, MixupConfig, MixupRetrainingConfig, RemixConfig
from csa.config.schema import ProtocolConfig, SamplerConfig
from csa.methods.classifier import Classifier
from csa.methods.losses import Criterion, Targets, deferred_reweighting, ldam_drw, logit_adjustment
from csa.methods.method import Clock, Context, Step
from csa.methods.stages import UNIFORM, power, training_stage
from csa.models.heads import linear_head, normalized_head

if TYPE_CHECKING:
    from csa.data.batch import Batch


def mixup(images: Tensor, labels: Tensor, lam: Tensor, order: Tensor) -> tuple[Tensor, Targets]:
    """Each image with its partner, one permutation for images and labels (Zhang et al. 2018).

    images: [B, C, H, W]; lam: scalar in [0, 1], what an image keeps of itself; order: [B], a permutation.
    """
    mixed = lam * images + (1 - lam) * images[order]
    return mixed, [(labels, lam), (labels[order], 1 - lam)]


def mixup_draws(alpha: float, sizes: Sequence[int], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Shares ~ Beta(alpha, alpha), [steps], and permutations, [steps, B] with B the largest size.

    The first ``sizes[i]`` entries of row i permute 0 .. sizes[i] - 1; what follows is padding.
    """
    keys = torch.rand(len(sizes), max(sizes), generator=generator)
    positions = torch.arange(max(sizes))
    absent = positions >= torch.tensor(sizes)[:, None]
    order = torch.where(absent, 1.0 + positions, keys).argsort(1)
    return beta_draws(alpha, len(sizes), generator), order


def beta_draws(alpha: float, steps: int, generator: torch.Generator) -> Tensor:
    """Shares ~ Beta(alpha, alpha), [steps]."""
    seed = int(torch.randint(2**62, (), generator=generator))  # torch has no Beta that takes a generator
    lam = np.random.Generator(np.random.PCG64(seed)).beta(alpha, alpha, steps)
    return torch.from_numpy(lam).float()


def blend_context(images: Tensor, contexts: Tensor, masks: Tensor, lam: Tensor) -> Tensor:
    """``lambda M * context + (1 - lambda M) * image``: a new background, the label stays (METHOD: CSA 5).

    images, contexts: [B, C, H, W]; masks: [B, 1, H, W], 1 where the context is background; lam: lambda.
    """
    weight = lam * masks
    return weight * contexts + (1 - weight) * images


def remix_share(lam: Tensor, own: Tensor, partner: Tensor, kappa: float, tau: float) -> Tensor:
    """What an image keeps of its label, [B]: none or all of it where the minority is clear (Chou et al. 2020, eq. 10).

    lam: what it keeps of its pixels, scalar or [B]; own, partner: sizes of the two classes, [B].
    """
    to_partner = (own >= kappa * partner) & (lam < tau)
    to_own = (kappa * own <= partner) & (1 - lam < tau)
    return torch.where(to_partner, 0.0, torch.where(to_own, 1.0, lam))


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
    lam = torch.rand(steps, generator=generator, dtype=torch.float64)
    centres = [torch.randint(side, (steps,), generator=generator) for side in (height, width)]
    boxes = clipped_boxes(lam, centres[0], centres[1], image_size)
    boxes *= (torch.rand(steps, generator=generator) < probability)[:, None]
    top, bottom, left, right = boxes.unbind(1)
    return boxes, 1 - (bottom - top) * (right - left) / (height * width)


def clipped_boxes(lam: Tensor, row: Tensor, column: Tensor, image_size: tuple[int, int], *, up: bool = False) -> Tensor:
    """Boxes around (row, column) of about ``1 - share`` of the area, as CutMix truncates and clips them; [steps, 4].

    up: sides are rounded up before they are halved, in place of truncated.
    """
    sides = []
    for centre, length in zip((row, column), image_size, strict=True):
        side = length * (1 - lam).sqrt()
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


# --- the methods mixup and Remix ------------------------------------------------------------


@dataclass(frozen=True)
class MixupWindow:
    """mixup with shares ~ Beta(alpha, alpha), off in the last epochs."""

    alpha: float
    off_epochs: int

    def is_open(self, clock: Clock) -> bool:
        return clock.epoch < clock.epochs - self.off_epochs

    def phase(self, clock: Clock) -> str:
        return "mixup" if self.is_open(clock) else "plain"

    def draws(self, clock: Clock, sizes: Sequence[int], generator: torch.Generator) -> dict[str, Tensor]:
        """``mixup_share`` [steps] and ``mixup_order`` [steps, B]."""
        if not self.is_open(clock):
            return {}
        lam, order = mixup_draws(self.alpha, sizes, generator)
        return {"mixup_share": lam, "mixup_order": order}

    def mixed(self, batch: Batch, draws: dict[str, Tensor], clock: Clock) -> tuple[Tensor, Targets]:
        if not self.is_open(clock):
            return batch.images, [(batch.labels, 1.0)]
        return mixup(batch.images, batch.labels, draws["mixup_share"], draws["mixup_order"][: len(batch.labels)])

    def trained(self, sampler: SamplerConfig) -> dict[str, Any]:
        """What a stage with it trains, so that other methods may start from a finished one (``Stage.shared``)."""
        return {"loss": "mixup", **asdict(self), "sampler": asdict(sampler)}


def mixup_window(config: MixupConfig | MixupRetrainingConfig, protocol: ProtocolConfig) -> MixupWindow:
    config = config.resolved(protocol)
    assert config.mixup_off_epochs is not None
    return MixupWindow(config.mixup_alpha, config.mixup_off_epochs)


class Mixup(Classifier):
    def __init__(self, context: Context) -> None:
        super().__init__(context)
        assert isinstance(context.config, MixupConfig)
        self.window = mixup_window(context.config, context.protocol)
        self.stages = (training_stage(context.protocol, self.window.trained(self.sampler)),)

    def phase(self, clock: Clock) -> str:
        return self.window.phase(clock)

    def draws(self, clock: Clock, sizes: Sequence[int], generator: torch.Generator) -> dict[str, Tensor]:
        return self.window.draws(clock, sizes, generator)

    def mixed(self, batch: Batch, draws: dict[str, Tensor], clock: Clock) -> tuple[Tensor, Targets]:
        return self.window.mixed(batch, draws, clock)


class Remix(Mixup):
    """A mixed image may have the minority's label alone (Chou et al. 2020)."""

    counts: Tensor

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        assert isinstance(context.config, RemixConfig)
        self.kappa, self.tau = context.config.kappa, context.config.tau
        self.register_buffer("counts", torch.tensor(context.counts, dtype=torch.float32), persistent=False)
        self.stages = (training_stage(context.protocol),)

    def mixed(self, batch: Batch, draws: dict[str, Tensor], clock: Clock) -> tuple[Tensor, Targets]:
        images, targets = super().mixed(batch, draws, clock)
        if not self.window.is_open(clock):
            return images, targets
        (own, _), (partner, _) = targets
        lam = remix_share(draws["mixup_share"], self.counts[own], self.counts[partner], self.kappa, self.tau)
        return images, [(own, lam), (partner, 1 - lam)]


# --- the method CMO -------------------------------------------------------------------------


class CutMixOversampling(Classifier):
    """CMO (Park et al. 2022): a patch of a minority-weighted image on the background of a natural one."""

    def __init__(self, context: Context) -> None:
        assert isinstance(context.config, CmoConfig)
        config = self.config = context.config.resolved(context.protocol)
        head = normalized_head if config.loss == "ldam_drw" else linear_head
        super().__init__(context, base_criterion(config, context.counts), head)
        _, height, width = context.image_shape
        self.image_size = height, width

    def pastes(self, clock: Clock) -> bool:
        """As released neither in the first epochs nor in the last ones."""
        assert self.config.first_epoch is not None
        assert self.config.off_epochs is not None
        return self.config.first_epoch <= clock.epoch < clock.epochs - self.config.off_epochs

    def phase(self, clock: Clock) -> str:
        return self.criterion.phase(clock) + ("+paste" if self.pastes(clock) else "")

    def streams(self, clock: Clock) -> dict[str, SamplerConfig]:
        if not self.pastes(clock):
            return {"train": UNIFORM}
        # An image's weight is 1 / n^a, its class's then n^(1 - a).
        return {"train": UNIFORM, "foreground": power(1 - self.config.foreground_power)}

    def draws(self, clock: Clock, sizes: Sequence[int], generator: torch.Generator) -> dict[str, Tensor]:
        """``box`` [steps, 4], one for the whole batch, and ``share`` [steps], what the background keeps."""
        if not self.pastes(clock):
            return {}
        box, lam = box_draws(len(sizes), self.image_size, self.config.probability, generator)
        return {"box": box, "share": lam}

    def forward(self, batches: dict[str, Batch], draws: dict[str, Tensor], clock: Clock) -> Step:
        if not self.pastes(clock):
            return super().forward(batches, draws, clock)
        back, front, lam = batches["train"], batches["foreground"], draws["share"]
        logits = self.outputs(paste(back.images, front.images, draws["box"]))
        return Step(self.criterion(logits, [(back.labels, lam), (front.labels, 1 - lam)], clock), {})


def base_criterion(config: CmoConfig, counts: Sequence[int]) -> Criterion:
    """The loss that the pasted images are trained with."""
    if config.loss == "ce_drw":
        return deferred_reweighting(config, counts)
    if config.loss == "ldam_drw":
        return ldam_drw(config, counts)
    return logit_adjustment(counts, tau=1.0) if config.loss == "balanced_softmax" else Criterion()
