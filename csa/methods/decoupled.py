"""Decoupled training (Kang et al. 2020): a representation learnt by cross-entropy first, then the classifier alone.

It is re-trained (cRT, LWS, weight balancing) or corrected without a step (tau-normalisation, logit adjustment).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from csa.config.method_schema import (
    ClassifierRetrainingConfig,
    MixupRetrainingConfig,
    PostHocConfig,
    WeightBalancingConfig,
)
from csa.methods.classifier import Classifier, trained_by_cross_entropy
from csa.methods.losses import Targets, class_weights, log_prior
from csa.methods.method import Clock, Context, Stage, Step
from csa.methods.mixing import mixup_window
from csa.methods.stages import UNIFORM, class_aware, cosine, training_stage
from csa.models.heads import linear_head
from csa.randomness import initialised_at

if TYPE_CHECKING:
    from csa.config.schema import SamplerConfig
    from csa.data.batch import Batch
    from csa.data.loader import Loader

REPRESENTATION, CLASSIFIER = 0, 1


class ClassifierRetraining(Classifier):
    """``crt`` re-trains the classifier on class-aware batches, ``lws`` one factor a class.

    Stage one is ``ce`` on uniform batches to the last bit: same addresses, same names of its weights.

    Stage two freezes the backbone in all three ways: no gradient, not in the optimiser, and the mode of
    its batch-norm said outright (``bn_mode``), for in training mode its statistics go on moving.
    """

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        assert isinstance(context.config, ClassifierRetrainingConfig)
        self.config, self.seed, self.num_classes = context.config, context.seed, context.num_classes
        self.scales: nn.Parameter | None = None
        _, epochs = self.config.stage_epochs(context.protocol)
        self.stages = (
            training_stage(context.protocol, trained_by_cross_entropy(UNIFORM)),
            Stage("classifier", epochs, cosine(self.config.lr, epochs / self.config.cosine_share)),
        )

    def enter_stage(self, stage: int) -> None:
        self.backbone.requires_grad_(stage == REPRESENTATION)
        if stage == REPRESENTATION:
            return
        if self.config.trains == "scales":
            self.head.requires_grad_(False)
            self.scales = nn.Parameter(torch.ones(self.num_classes))
        elif self.config.head == "new":
            with initialised_at(self.seed, "init", "stage_two_head"):
                fresh = linear_head(self.backbone, self.num_classes)
            self.head.load_state_dict(fresh.state_dict())

    def train_stage(self, stage: int) -> None:
        self.train()
        if stage == CLASSIFIER:
            self.backbone.train(self.config.bn_mode == "train")

    def streams(self, clock: Clock) -> dict[str, SamplerConfig]:
        if clock.stage == REPRESENTATION:
            return {"train": UNIFORM}
        return {"train": class_aware(self.config.images_per_visit, self.config.draws)}

    def outputs(self, images: Tensor) -> Tensor:
        outputs = super().outputs(images)
        return outputs if self.scales is None else self.scales * outputs  # the bias is scaled too


class MixupRetraining(ClassifierRetraining):
    """``crt_mixup`` and ``lws_mixup``: stage one is ``mixup``.

    Stage two sees plain images (Zhong et al. 2021 find mixup of no use there).
    """

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        assert isinstance(context.config, MixupRetrainingConfig)
        self.window = mixup_window(context.config, context.protocol)
        self.stages = (training_stage(context.protocol, self.window.trained(UNIFORM)), self.stages[CLASSIFIER])

    def phase(self, clock: Clock) -> str:
        return self.window.phase(clock) if clock.stage == REPRESENTATION else "plain"

    def draws(self, clock: Clock, sizes: Sequence[int], generator: torch.Generator) -> dict[str, Tensor]:
        return self.window.draws(clock, sizes, generator) if clock.stage == REPRESENTATION else {}

    def mixed(self, batch: Batch, draws: dict[str, Tensor], clock: Clock) -> tuple[Tensor, Targets]:
        if clock.stage == CLASSIFIER:
            return super().mixed(batch, draws, clock)
        return self.window.mixed(batch, draws, clock)


# --- weight balancing -----------------------------------------------------------------------


class WeightBalancing(Classifier):
    """Alshammari et al. (2022): a classifier re-trained with strong weight decay inside a norm ball.

    Stage one is ``ce`` on uniform batches (whose weight decay is the protocol's).

    Stage two goes on with its classifier alone, whose weights are brought back into the ball before every step and
    before they are evaluated: projected gradient descent. Batch-norm's statistics go on moving, as released.
    """

    head: nn.Linear
    class_weights: Tensor
    radius: Tensor

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        assert isinstance(context.config, WeightBalancingConfig)
        self.config, self.in_ball = context.config, False
        _, epochs = self.config.stage_epochs(context.protocol)
        weights = class_weights("effective_number", context.counts, self.config.beta)
        self.register_buffer("class_weights", weights, persistent=False)
        self.stages = (
            training_stage(context.protocol, trained_by_cross_entropy(UNIFORM)),
            Stage("classifier", epochs, cosine(self.config.lr, epochs)),
        )

    def enter_stage(self, stage: int) -> None:
        self.backbone.requires_grad_(stage == REPRESENTATION)
        if stage == CLASSIFIER:
            self.in_ball = True
            self.register_buffer("radius", torch.ones((), device=self.head.weight.device))

    def prepare(self, stage: int, loader: object) -> None:
        """The ball's radius, from the norms of the classes that stage one leaves."""
        if stage == CLASSIFIER:
            norms = self.head.weight.norm(dim=1)
            self.radius.copy_(norms.min() + self.config.max_norm * (norms.max() - norms.min()))

    def parameter_groups(self, stage: int) -> list[dict[str, Any]]:
        if stage == REPRESENTATION:
            return super().parameter_groups(stage)
        return [{"params": list(self.head.parameters()), "weight_decay": self.config.weight_decay}]

    def streams(self, clock: Clock) -> dict[str, SamplerConfig]:
        return {"train": UNIFORM}

    def forward(self, batches: dict[str, Batch], draws: dict[str, Tensor], clock: Clock) -> Step:
        if clock.stage == REPRESENTATION:
            return super().forward(batches, draws, clock)
        images, labels = batches["train"]
        with torch.no_grad():
            self.head.weight.copy_(self.projected())
        return Step(balanced_binary(self.head(self.backbone(images)), labels, self.class_weights), {})

    def projected(self) -> Tensor:
        """The weights [K, F], those of a class beyond the ball's radius on its surface."""
        return within(self.head.weight, self.radius)

    def logits(self, images: Tensor) -> dict[str, Tensor]:
        if not self.in_ball:
            return super().logits(images)
        feature = self.backbone(images)
        with torch.autocast(feature.device.type, enabled=False):
            return {"classifier": F.linear(feature.to(self.head.weight.dtype), self.projected(), self.head.bias)}


def within(weight: Tensor, radius: Tensor) -> Tensor:
    """Rows [K, F] of a norm above ``radius`` scaled down to it."""
    norms: Tensor = weight.norm(dim=1, keepdim=True)
    return weight * (radius / norms.clamp_min(1e-12)).clamp_max(1)


def balanced_binary(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """The released class-balanced loss: binary cross-entropies of the softmax's K probabilities, mean over B and K.

    logits: [B, K]; weights: of the classes, [K]; an image's own class weighs all of its K terms.
    """
    logs = logits.float().log_softmax(1)
    own = F.one_hot(labels, logits.shape[1]).bool()
    against = torch.log1p(-logs.exp().clamp_max(1 - 1e-7))
    return -(weights[labels][:, None] * torch.where(own, logs, against)).mean()


# --- corrections of a finished classifier ---------------------------------------------------


CANDIDATES = tuple(step / 10 for step in range(21))
"""Kang et al. (2020) choose tau from 0, 0.1, ..., 2."""

TUNING_BATCH = 250


class PostHocCorrection(Classifier):
    """tau-normalisation and logit adjustment.

    Stage one is ``ce`` in every respect; stage two, without a step, has the correction. There tau is chosen on the
    validation images, if it is not given.

    In the end both heads are evaluated, the plain one and the corrected one, which stands for the run.
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
        if stage == CLASSIFIER:
            self.heads, self.primary_head = ("classifier", "corrected"), "corrected"
            self.register_buffer("tau", torch.tensor(1.0 if self.config.tau is None else self.config.tau))

    def streams(self, clock: Clock) -> dict[str, SamplerConfig]:
        return {"train": UNIFORM}

    def prepare(self, stage: int, loader: Loader) -> None:
        """Set tau to the smallest candidate with the highest validation accuracy."""
        if stage != CLASSIFIER or self.config.tau is not None:
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
