"""Deferred re-sampling and re-weighting (Cao et al. 2019): plain training until the learning rate is annealed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from csa.config.method_schema import DeferredConfig, LdamConfig, ReweightedConfig
from csa.methods.classifier import Classifier
from csa.methods.losses import deferred_reweighting, ldam_drw
from csa.methods.stages import UNIFORM, class_balanced
from csa.models.heads import normalized_head

if TYPE_CHECKING:
    from csa.config.schema import SamplerConfig
    from csa.methods.method import Clock, Context


class DeferredResampling(Classifier):
    """CE-DRS: cross-entropy on uniform batches, then on class-balanced ones; nothing is re-initialised or frozen."""

    def __init__(self, context: Context) -> None:
        assert isinstance(context.config, DeferredConfig)
        super().__init__(context)
        self.config = context.config.resolved(context.protocol)

    def streams(self, clock: Clock) -> dict[str, SamplerConfig]:
        assert self.config.start_epoch is not None
        return {"train": class_balanced("images") if clock.epoch >= self.config.start_epoch else UNIFORM}


class DeferredReweighting(Classifier):
    """CE-DRW: cross-entropy, then with class weights."""

    def __init__(self, context: Context) -> None:
        assert isinstance(context.config, ReweightedConfig)
        config = context.config.resolved(context.protocol)
        super().__init__(context, deferred_reweighting(config, context.counts))


class LdamDeferredReweighting(Classifier):
    """LDAM-DRW: a margin for each class on the cosines of a normalised head, then with class weights."""

    def __init__(self, context: Context) -> None:
        assert isinstance(context.config, LdamConfig)
        config = context.config.resolved(context.protocol)
        super().__init__(context, ldam_drw(config, context.counts), normalized_head)
