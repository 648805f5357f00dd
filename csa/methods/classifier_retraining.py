"""cRT: cross-entropy on uniform batches, then the classifier alone on class-aware ones (Kang et al. 2020)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from csa.config.schema import ClassifierRetrainingConfig
from csa.methods.cross_entropy import trained_by_cross_entropy
from csa.methods.losses import cross_entropy
from csa.methods.method import Clock, Context, Method, Stage, Step
from csa.methods.schedules import cosine, learning_rate
from csa.methods.streams import UNIFORM, class_aware
from csa.models.heads import linear_head
from csa.randomness import initialised_at

if TYPE_CHECKING:
    from torch import Tensor

    from csa.config.schema import SamplerConfig
    from csa.data.batch import Batch

REPRESENTATION, CLASSIFIER = 0, 1


class ClassifierRetraining(Method):
    """Stage one is ``ce`` on uniform batches to the last bit: same addresses, same names of its weights.

    Stage two freezes the backbone in all three ways: no gradient, not in the optimiser, and the mode of
    its batch-norm said outright (``bn_mode``), for in training mode its statistics go on moving.
    """

    heads = ("classifier",)
    primary_head = "classifier"

    def __init__(self, context: Context) -> None:
        super().__init__()
        assert isinstance(context.config, ClassifierRetrainingConfig)
        self.config, self.seed, self.num_classes = context.config, context.seed, context.num_classes
        with initialised_at(self.seed, "init", "backbone"):
            self.backbone = context.build_backbone()
        with initialised_at(self.seed, "init", "head"):
            self.head = linear_head(self.backbone, self.num_classes)
        protocol, config = context.protocol, context.config
        self.stages = (
            Stage("train", protocol.epochs, learning_rate(protocol), trained_by_cross_entropy(UNIFORM)),
            Stage("classifier", config.epochs, cosine(config.lr, config.epochs)),
        )

    def enter_stage(self, stage: int) -> None:
        self.backbone.requires_grad_(stage == REPRESENTATION)
        if stage == CLASSIFIER and self.config.head == "new":
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

    def forward(self, batches: dict[str, Batch], draws: dict[str, Tensor], clock: Clock) -> Step:
        images, labels = batches["train"]
        return Step(cross_entropy(self.head(self.backbone(images)), [(labels, 1.0)]), {})

    def logits(self, images: Tensor) -> dict[str, Tensor]:
        return {"classifier": self.head(self.backbone(images))}
