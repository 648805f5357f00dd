"""Decoupled training (Kang et al. 2020): a representation first, then the classifier alone on class-aware batches.

``crt`` re-trains the classifier, ``lws`` one factor a class; ``crt_mixup`` and ``lws_mixup`` have mixup in stage one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from csa.config.method_schema import ClassifierRetrainingConfig, MixupRetrainingConfig
from csa.methods.classifier import Classifier
from csa.methods.cross_entropy import trained_by_cross_entropy
from csa.methods.method import Stage
from csa.methods.mixup import mixup_window
from csa.methods.stages import UNIFORM, class_aware, cosine, training_stage
from csa.models.heads import linear_head
from csa.randomness import initialised_at

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from csa.config.schema import SamplerConfig
    from csa.data.batch import Batch
    from csa.methods.losses import Targets
    from csa.methods.method import Clock, Context

REPRESENTATION, CLASSIFIER = 0, 1


class ClassifierRetraining(Classifier):
    """Stage one is ``ce`` on uniform batches to the last bit: same addresses, same names of its weights.

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
    """Stage one is ``mixup``; stage two sees plain images (Zhong et al. 2021 find mixup of no use there)."""

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
