"""Cross-entropy on the batches of one sampler: ``ce`` with the uniform one, ``cbrs`` with a balanced one."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from csa.methods.losses import cross_entropy
from csa.methods.method import Clock, Context, Method, Stage, Step
from csa.methods.schedules import learning_rate
from csa.models.heads import linear_head
from csa.randomness import initialised_at

if TYPE_CHECKING:
    from torch import Tensor

    from csa.config.schema import SamplerConfig
    from csa.data.batch import Batch


def trained_by_cross_entropy(sampler: SamplerConfig) -> dict[str, Any]:
    """What such a stage trains, so that other methods may start from a finished one (``Stage.shared``)."""
    return {"loss": "cross_entropy", "sampler": asdict(sampler)}


class CrossEntropy(Method):
    heads = ("classifier",)
    primary_head = "classifier"

    def __init__(self, context: Context) -> None:
        super().__init__()
        protocol = context.protocol
        with initialised_at(context.seed, "init", "backbone"):
            self.backbone = context.build_backbone()
        with initialised_at(context.seed, "init", "head"):
            self.head = linear_head(self.backbone, context.num_classes)
        self.sampler = context.sampler
        shared = trained_by_cross_entropy(context.sampler)
        self.stages = (Stage("train", protocol.epochs, learning_rate(protocol), shared),)

    def enter_stage(self, stage: int) -> None:
        """One stage, everything trains."""

    def streams(self, clock: Clock) -> dict[str, SamplerConfig]:
        return {"train": self.sampler}

    def forward(self, batches: dict[str, Batch], draws: dict[str, Tensor], clock: Clock) -> Step:
        images, labels = batches["train"]
        return Step(cross_entropy(self.head(self.backbone(images)), [(labels, 1.0)]), {})

    def logits(self, images: Tensor) -> dict[str, Tensor]:
        return {"classifier": self.head(self.backbone(images))}
