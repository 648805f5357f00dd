"""Logit adjustment in the loss (Menon et al. 2021) and Balanced Softmax (Ren et al. 2020), which is its tau = 1."""

from __future__ import annotations

from typing import TYPE_CHECKING

from csa.config.method_schema import LogitAdjustmentConfig
from csa.methods.classifier import Classifier
from csa.methods.losses import logit_adjustment

if TYPE_CHECKING:
    from csa.methods.method import Context


class LogitAdjustment(Classifier):
    def __init__(self, context: Context) -> None:
        assert isinstance(context.config, LogitAdjustmentConfig)
        smoothing = context.protocol.label_smoothing
        super().__init__(context, logit_adjustment(context.counts, context.config.tau, smoothing))
