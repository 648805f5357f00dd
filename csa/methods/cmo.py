"""CMO (Park et al. 2022): a patch of a minority-weighted image on the background of a natural one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from csa.config.method_schema import CmoConfig
from csa.config.schema import SamplerConfig
from csa.methods.classifier import Classifier
from csa.methods.losses import Criterion, deferred_reweighting, ldam_drw, logit_adjustment
from csa.methods.method import Step
from csa.methods.mixing import box_draws, paste
from csa.methods.stages import UNIFORM, power
from csa.models.heads import linear_head, normalized_head

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from torch import Tensor

    from csa.data.batch import Batch
    from csa.methods.method import Clock, Context


class CutMixOversampling(Classifier):
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
        box, share = box_draws(len(sizes), self.image_size, self.config.probability, generator)
        return {"box": box, "share": share}

    def forward(self, batches: dict[str, Batch], draws: dict[str, Tensor], clock: Clock) -> Step:
        if not self.pastes(clock):
            return super().forward(batches, draws, clock)
        back, front, share = batches["train"], batches["foreground"], draws["share"]
        logits = self.outputs(paste(back.images, front.images, draws["box"]))
        return Step(self.criterion(logits, [(back.labels, share), (front.labels, 1 - share)], clock), {})


def base_criterion(config: CmoConfig, counts: Sequence[int]) -> Criterion:
    """The loss that the pasted images are trained with."""
    if config.loss == "ce_drw":
        return deferred_reweighting(config, counts)
    if config.loss == "ldam_drw":
        return ldam_drw(config, counts)
    return logit_adjustment(counts, tau=1.0) if config.loss == "balanced_softmax" else Criterion()
