"""Corrections of a finished cross-entropy classifier: tau-normalisation and logit adjustment.

In the end both heads are evaluated, the plain one and the corrected one, which stands for the run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from csa.config.method_schema import PostHocConfig
from csa.methods.classifier import Classifier
from csa.methods.cross_entropy import trained_by_cross_entropy
from csa.methods.losses import log_prior
from csa.methods.method import Stage
from csa.methods.stages import UNIFORM, training_stage

if TYPE_CHECKING:
    from torch import Tensor

    from csa.config.schema import SamplerConfig
    from csa.data.loader import Loader
    from csa.methods.method import Clock, Context

CORRECTION = 1
CANDIDATES = tuple(step / 10 for step in range(21))
"""Kang et al. (2020) choose tau from 0, 0.1, ..., 2."""

TUNING_BATCH = 250


class PostHocCorrection(Classifier):
    """Stage one is ``ce`` in every respect; stage two, without a step, has the correction.

    There tau is chosen on the validation images, if it is not given.
    """

    head: nn.Linear
    log_prior: Tensor
    tau: Tensor

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        assert isinstance(context.config, PostHocConfig)
        self.config = context.config
        self.register_buffer("log_prior", log_prior(context.counts), persistent=False)
        self.stages = (
            training_stage(context.protocol, trained_by_cross_entropy(UNIFORM)),
            Stage("correction", 0, lambda _: 0.0),
        )

    def enter_stage(self, stage: int) -> None:
        if stage == CORRECTION:
            self.heads, self.primary_head = ("classifier", "corrected"), "corrected"
            self.register_buffer("tau", torch.tensor(1.0 if self.config.tau is None else self.config.tau))

    def streams(self, clock: Clock) -> dict[str, SamplerConfig]:
        return {"train": UNIFORM}

    def prepare(self, stage: int, loader: Loader) -> None:
        """Set tau to the smallest candidate with the highest validation accuracy."""
        if stage != CORRECTION or self.config.tau is not None:
            return
        hits = torch.zeros(len(CANDIDATES), dtype=torch.int64, device=self.tau.device)
        for images, labels in loader.holdout_batches(TUNING_BATCH, whole=True):
            feature = self.backbone(images)
            outputs = [self.corrected(feature, tau) for tau in CANDIDATES]
            hits += torch.stack([(output.argmax(1) == labels).sum() for output in outputs])
        self.tau.fill_(CANDIDATES[int(hits.argmax())])

    def corrected(self, feature: Tensor, tau: Tensor | float) -> Tensor:
        if self.config.correction == "tau_norm":
            return tau_normalized(feature, self.head.weight, tau)
        logits: Tensor = self.head(feature)
        return logits.float() - tau * self.log_prior

    def logits(self, images: Tensor) -> dict[str, Tensor]:
        feature = self.backbone(images)
        logits = {"classifier": self.head(feature)}
        return logits | ({"corrected": self.corrected(feature, self.tau)} if "corrected" in self.heads else {})


def tau_normalized(feature: Tensor, weight: Tensor, tau: Tensor | float) -> Tensor:
    """Logits, in float32, under the weights ``w_k / ||w_k||^tau``, without a bias; feature: [B, F], weight: [K, F]."""
    with torch.autocast(feature.device.type, enabled=False):
        return F.linear(feature.to(weight.dtype), weight / weight.norm(dim=1, keepdim=True) ** tau)
