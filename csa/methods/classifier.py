"""One backbone, one classifier: what most methods are, from the weights that cross-entropy would start from.

Below it those that differ from it in their loss, or in batches or weights of classes from some epoch on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.nn import functional as F

from csa.config.method_schema import DeferredConfig, FocalConfig, LdamConfig, LogitAdjustmentConfig, ReweightedConfig
from csa.methods.losses import (
    Criterion,
    Targets,
    WithConstant,
    class_weights,
    deferred_reweighting,
    distorted_softmax_focal,
    ldam_drw,
    logit_adjustment,
    plain,
    sigmoid_focal,
    softmax_focal,
)
from csa.methods.method import Clock, Context, Method, Step
from csa.methods.stages import UNIFORM, class_balanced, training_stage
from csa.models.heads import linear_head, normalized_head
from csa.randomness import initialised_at

if TYPE_CHECKING:
    from csa.config.schema import SamplerConfig
    from csa.data.batch import Batch
    from csa.models.backbone import Backbone


class Classifier(Method):
    """Trained in one stage on the batches of the sampler group, unless a derived method says otherwise.

    criterion: plain cross-entropy where none is given. new_head: of a backbone and a number of classes.
    """

    heads: tuple[str, ...] = ("classifier",)
    primary_head = "classifier"

    def __init__(
        self,
        context: Context,
        criterion: Criterion | None = None,
        new_head: Callable[[Backbone, int], nn.Module] = linear_head,
    ) -> None:
        super().__init__()
        with initialised_at(context.seed, "init", "backbone"):
            self.backbone = context.build_backbone()
        with initialised_at(context.seed, "init", "head"):
            self.head = new_head(self.backbone, context.num_classes)
        self.criterion = criterion or Criterion(partial(plain, smoothing=context.protocol.label_smoothing))
        self.sampler = context.sampler
        self.stages = (training_stage(context.protocol),)

    def streams(self, clock: Clock) -> dict[str, SamplerConfig]:
        return {"train": self.sampler}

    def phase(self, clock: Clock) -> str:
        return self.criterion.phase(clock)

    def forward(self, batches: dict[str, Batch], draws: dict[str, Tensor], clock: Clock) -> Step:
        images, targets = self.mixed(batches["train"], draws, clock)
        return Step(self.criterion(self.outputs(images), targets, clock), {})

    def mixed(self, batch: Batch, draws: dict[str, Tensor], clock: Clock) -> tuple[Tensor, Targets]:
        """The images that the network sees and what they are labelled with; as they are, unless overridden."""
        return batch.images, [(batch.labels, 1.0)]

    def outputs(self, images: Tensor) -> Tensor:
        """What the criterion reads, [B, K]."""
        outputs: Tensor = self.head(self.backbone(images))
        return outputs

    def logits(self, images: Tensor) -> dict[str, Tensor]:
        return {"classifier": self.criterion.scale * self.outputs(images)}


# --- cross-entropy, as it is or logit-adjusted ----------------------------------------------


def trained_by_cross_entropy(sampler: SamplerConfig) -> dict[str, Any]:
    """What such a stage trains, so that other methods may start from a finished one (``Stage.shared``)."""
    return {"loss": "cross_entropy", "sampler": asdict(sampler)}


class CrossEntropy(Classifier):
    """On the batches of one sampler: ``ce`` with the uniform one, ``cbrs`` with a balanced one."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.stages = (training_stage(context.protocol, trained_by_cross_entropy(self.sampler)),)


class LogitAdjustment(Classifier):
    """In the loss (Menon et al. 2021); with tau = 1 it is Balanced Softmax (Ren et al. 2020)."""

    def __init__(self, context: Context) -> None:
        assert isinstance(context.config, LogitAdjustmentConfig)
        smoothing = context.protocol.label_smoothing
        super().__init__(context, logit_adjustment(context.counts, context.config.tau, smoothing))


# --- deferred (Cao et al. 2019): plain training until the learning rate is annealed ---------


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


# --- focal loss -----------------------------------------------------------------------------


class Focal(Classifier):
    """Lin et al. (2017), and its class-balanced version, CB-Focal (Cui et al. 2019)."""

    head: nn.Linear

    def __init__(self, context: Context) -> None:
        assert isinstance(context.config, FocalConfig)
        config = context.config
        super().__init__(context, focal_criterion(config, context.counts))
        self.form = config.form
        self.prior_bias = config.form == "sigmoid" and config.prior_bias
        if self.prior_bias:
            # Each sigmoid starts at 1/K; at 1/2 the first loss would be about K log 2.
            nn.init.constant_(self.head.bias, -math.log(context.num_classes - 1))

    def parameter_groups(self, stage: int) -> list[dict[str, Any]]:
        """As released with the sigmoid form: weight decay would pull the bias away from the prior."""
        if not self.prior_bias:
            return super().parameter_groups(stage)
        others = [parameter for parameter in self.parameters() if parameter is not self.head.bias]
        return [{"params": others}, {"params": [self.head.bias], "weight_decay": 0.0}]

    def probabilities(self, logits: Tensor) -> Tensor:
        """In the sigmoid form each class has one of its own, so that they need not add up to 1."""
        return logits.sigmoid() if self.form == "sigmoid" else super().probabilities(logits)

    def log_likelihood(self, logits: Tensor, labels: Tensor) -> Tensor:
        """In the sigmoid form of K answers, one of them yes."""
        if self.form != "sigmoid":
            return super().log_likelihood(logits, labels)
        answers = F.one_hot(labels, logits.shape[1]).to(logits)
        return -F.binary_cross_entropy_with_logits(logits, answers, reduction="none").sum(1)


def focal_criterion(config: FocalConfig, counts: Sequence[int]) -> Criterion:
    weights = class_weights("effective_number", counts, config.beta) if config.beta else None
    if config.form == "sigmoid":
        return Criterion(partial(sigmoid_focal, gamma=config.gamma), weights=weights)
    if config.weights == "inside" and weights is not None:
        return Criterion(WithConstant(distorted_softmax_focal, weights, config.gamma))
    return Criterion(partial(softmax_focal, gamma=config.gamma), weights=weights)
