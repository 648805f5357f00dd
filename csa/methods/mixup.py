"""mixup (Zhang et al. 2018) and Remix (Chou et al. 2020), which may give a mixed image the minority's label alone."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from csa.config.method_schema import MixupConfig, MixupRetrainingConfig, RemixConfig
from csa.methods.classifier import Classifier
from csa.methods.mixing import mixup, mixup_draws, remix_share
from csa.methods.stages import training_stage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from csa.config.schema import ProtocolConfig, SamplerConfig
    from csa.data.batch import Batch
    from csa.methods.losses import Targets
    from csa.methods.method import Clock, Context


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
        share, order = mixup_draws(self.alpha, sizes, generator)
        return {"mixup_share": share, "mixup_order": order}

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
        share = remix_share(draws["mixup_share"], self.counts[own], self.counts[partner], self.kappa, self.tau)
        return images, [(own, share), (partner, 1 - share)]
