"""M2m (Kim et al. 2020): majority images, translated by a helper network, become minority samples."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

import torch

from csa.config.method_schema import TranslationConfig
from csa.methods.classifier import Classifier
from csa.methods.cross_entropy import trained_by_cross_entropy
from csa.methods.losses import cross_entropy
from csa.methods.method import Stage, Step, evaluating
from csa.methods.schedules import learning_rate, training_stage
from csa.methods.streams import UNIFORM, class_balanced
from csa.methods.translation import choose, limited, seed_weights, towards_target, translate
from csa.models.heads import linear_head
from csa.randomness import initialised_at

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from csa.config.schema import SamplerConfig
    from csa.data.batch import Batch
    from csa.methods.method import Clock, Context

HELPER, MODEL = 0, 1


class MajorToMinor(Classifier):
    """Stage one is ``ce`` and trains the helper; stage two trains a new network, with translation near its end."""

    counts: Tensor

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        assert isinstance(context.config, TranslationConfig)
        self.config = context.config.resolved(context.protocol)
        self.seed, self.num_classes, self.image_shape = context.seed, context.num_classes, context.image_shape
        self.build_backbone = context.build_backbone
        self.helper: nn.ModuleDict | None = None
        self.register_buffer("counts", torch.tensor(context.counts, dtype=torch.float32), persistent=False)
        protocol = context.protocol
        self.stages = (
            training_stage(protocol, trained_by_cross_entropy(UNIFORM)),
            Stage("model", protocol.epochs, learning_rate(protocol), lr_each_step=protocol.warmup_each_step),
        )

    def enter_stage(self, stage: int) -> None:
        if stage == HELPER:
            return
        self.helper = torch.nn.ModuleDict({"backbone": deepcopy(self.backbone), "head": deepcopy(self.head)})
        self.helper.requires_grad_(False)
        with initialised_at(self.seed, "init", "model"):
            self.backbone.load_state_dict(self.build_backbone().state_dict())
            self.head.load_state_dict(linear_head(self.backbone, self.num_classes).state_dict())

    def train_stage(self, stage: int) -> None:
        self.train()
        if self.helper is not None:
            self.helper.eval()

    # --- what is in force when --------------------------------------------------------------

    def translates(self, clock: Clock) -> bool:
        assert self.config.start_epoch is not None
        return clock.stage == MODEL and clock.epoch >= self.config.start_epoch

    def phase(self, clock: Clock) -> str:
        return "translate" if self.translates(clock) else "plain"

    def streams(self, clock: Clock) -> dict[str, SamplerConfig]:
        return {"train": class_balanced("images") if self.translates(clock) else UNIFORM}

    def draws(self, clock: Clock, sizes: Sequence[int], generator: torch.Generator) -> dict[str, Tensor]:
        """``marked``, ``chosen`` and ``accepted`` [steps, B] ~ U(0, 1); ``noise`` [steps, B, C, H, W] ~ U(-1/2, 1/2).

        Of a whole epoch on CIFAR-10-LT the noise has 150 MB.
        """
        if not self.translates(clock):
            return {}
        shape = len(sizes), max(sizes)
        drawn = {name: torch.rand(shape, generator=generator) for name in ("marked", "chosen", "accepted")}
        return drawn | {"noise": torch.rand(*shape, *self.image_shape, generator=generator).sub_(0.5)}

    # --- a step -----------------------------------------------------------------------------

    def forward(self, batches: dict[str, Batch], draws: dict[str, Tensor], clock: Clock) -> Step:
        batch = batches["train"]
        images, measures = batch.images, {}
        if self.translates(clock):
            draws = {name: row[: len(batch.labels)] for name, row in draws.items()}
            images, replaced = self.replaced(batch, draws)
            measures = {"translated": replaced.float().mean()}
        return Step(cross_entropy(self.outputs(images), [(batch.labels, 1.0)]), measures)

    def replaced(self, batch: Batch, draws: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The batch with some images replaced by translated ones, and which, [B] bool; labels stay.

        All positions are translated and those that count are chosen afterwards: shapes stay, nothing waits.
        """
        sizes = self.counts[batch.labels]
        weights = seed_weights(sizes[None], sizes[:, None], self.config.beta)  # [target, seed]
        marked = (draws["marked"] < 1 - sizes / self.counts.max()) & (weights.amax(1) > 0)
        chosen = choose(weights, draws["chosen"])
        suitable = weights.gather(1, chosen[:, None])[:, 0]
        noise = limited(draws["noise"] * marked.view(-1, 1, 1, 1), self.config.noise)
        start = (batch.images[chosen] + noise).clamp(0, 1)
        translated, confidence = self.translated(start, batch.labels, batch.labels[chosen])
        accepted = marked & (confidence >= self.config.gamma) & (draws["accepted"] < suitable)
        return torch.where(accepted.view(-1, 1, 1, 1), translated, batch.images), accepted

    def translated(self, start: Tensor, targets: Tensor, seeds: Tensor) -> tuple[Tensor, Tensor]:
        """Images translated from the classes ``seeds`` to ``targets``, and the helper's p(target), [B]."""

        def objective(images: Tensor) -> Tensor:
            return towards_target(self.helped(images), self.outputs(images), targets, seeds, self.config.seed_weight)

        with evaluating(self.backbone, self.head):
            images = translate(start, objective, self.config.step_size, self.config.iterations)
        with torch.no_grad():
            confidence = self.helped(images).float().softmax(1).gather(1, targets[:, None])[:, 0]
        torch.clear_autocast_cache()  # weights cast without a gradient must not reach the training pass
        return images, confidence

    def helped(self, images: Tensor) -> Tensor:
        """The helper's logits."""
        assert self.helper is not None
        logits: Tensor = self.helper["head"](self.helper["backbone"](images))
        return logits
