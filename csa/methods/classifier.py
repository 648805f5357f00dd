"""One backbone, one classifier: what most methods are, from the weights that cross-entropy would start from."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from csa.methods.losses import Criterion, plain
from csa.methods.method import Clock, Context, Method, Step
from csa.methods.stages import training_stage
from csa.models.heads import linear_head
from csa.randomness import initialised_at

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

    from csa.config.schema import SamplerConfig
    from csa.data.batch import Batch
    from csa.methods.losses import Targets
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
