"""Context-shift augmentation (Shi et al. 2023, Algorithm 1): tail images on backgrounds of fitted images.

Two classifiers share one backbone. The uniform branch learns from uniform batches; the images it fits lend
their backgrounds, through a bank, to the class-balanced batches that the balanced branch learns from.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch

from csa.config.method_schema import ContextShiftConfig
from csa.methods.background_mask import background_mask, gradient_class_map, linear_class_map
from csa.methods.context_bank import ContextBank
from csa.methods.contrastive import VIEWS, Contrast, views_of
from csa.methods.losses import cross_entropy, log_prior
from csa.methods.method import WITHIN, Clock, Context, Method, Step, evaluating
from csa.methods.mixing import blend_context, mixup, mixup_draws
from csa.methods.stages import UNIFORM, class_aware, class_balanced, training_stage
from csa.models.heads import linear_head
from csa.randomness import initialised_at

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from csa.config.schema import SamplerConfig
    from csa.data.batch import Batch
    from csa.methods.losses import Targets


RESTS, DECAYS, LEARNS = "rests", "decays", "learns"
"""What the balanced head does in a step: it gets no update at all; once it has ever learned, only its weight decay and
momentum go on while it has no contexts; it learns from a balanced batch."""


class ContextShift(Method):
    """Evaluates three heads: uniform, balanced, and the mean of their logits.

    The uniform head learns by plain cross-entropy or, as the released code can, by logit-adjusted one, alone or beside
    BCL's contrast of two further views.
    """

    heads = ("uniform", "balanced", "mean")
    log_prior: Tensor | None

    def __init__(self, context: Context) -> None:
        super().__init__()
        assert isinstance(context.config, ContextShiftConfig)
        self.config = context.config.resolved(context.protocol)
        with initialised_at(context.seed, "init", "backbone"):
            self.backbone = context.build_backbone()
        with initialised_at(context.seed, "init", "head"):
            self.uniform_head = linear_head(self.backbone, context.num_classes)
        with initialised_at(context.seed, "init", "balanced_head"):
            self.balanced_head = linear_head(self.backbone, context.num_classes)
        adjusted = self.config.loss != "ce"
        self.register_buffer("log_prior", log_prior(context.counts) if adjusted else None, persistent=False)
        self.contrast: Contrast | None = None
        if self.config.loss == "bcl":
            with initialised_at(context.seed, "init", "contrast"):
                self.contrast = Contrast(self.backbone.feature_dim, self.config.contrast_temperature)
        assert self.config.bank_size is not None
        self.bank = ContextBank(self.config.bank_size, context.image_shape) if self.config.bank else None
        self.own_mask_pass = self.bank is None or self.config.mask_pass == "eval"  # noqa: S105 (no password)
        self.primary_head = self.config.primary_head
        self.cross_entropy = partial(cross_entropy, smoothing=context.protocol.label_smoothing)
        self.stages = (training_stage(context.protocol),)
        if self.bank is not None:
            self.backbone.need_map("CSA's mask")

    # --- what is in force when --------------------------------------------------------------

    def started(self, clock: Clock) -> bool:
        """Whether the balanced branch is due, its bank allowing."""
        assert self.config.start_epoch is not None
        return clock.epoch >= self.config.start_epoch

    def mixes(self, clock: Clock) -> bool:
        """Whether the uniform branch trains on mixup."""
        assert self.config.mixup_off_epochs is not None
        return self.config.mixup_alpha > 0 and clock.epoch < clock.epochs - self.config.mixup_off_epochs

    def lends(self, clock: Clock) -> bool:
        """Whether fitted images enter the bank. Before the start that matters only if it is never emptied."""
        return self.config.bank and (self.started(clock) or self.config.empty_bank == "never")

    def phase(self, clock: Clock) -> str:
        """Uniform (lending: it fills the bank, which is never emptied) or both branches, and ``+mixup``."""
        early = "lending" if self.lends(clock) else "uniform"
        return ("both" if self.started(clock) else early) + ("+mixup" if self.mixes(clock) else "")

    def foreseen(self, clock: Clock, images: int) -> str | None:
        """What the balanced head does. While the bank has too few entries the step's own images may be enough."""
        if not self.started(clock):
            return RESTS
        if self.bank is None or self.bank.enough_for(images):
            return LEARNS
        return None if self.own_mask_pass else WITHIN

    def decision(self, clock: Clock, images: int) -> str:
        began = self.bank is not None and self.bank.look()
        known = self.foreseen(clock, images)
        if known in (RESTS, LEARNS):
            return known
        return DECAYS if began else RESTS

    # --- an epoch ---------------------------------------------------------------------------

    def streams(self, clock: Clock) -> dict[str, SamplerConfig]:
        streams = {"uniform": UNIFORM} | ({} if self.contrast is None else views_of("uniform"))
        if not self.started(clock):
            return streams
        if self.config.balanced_sampler == "class_aware":
            return streams | {"balanced": class_aware(self.config.images_per_visit, draws="images")}
        return streams | {"balanced": class_balanced(draws="images")}

    def draws(self, clock: Clock, sizes: Sequence[int], generator: torch.Generator) -> dict[str, Tensor]:
        """With a bank ``lambda`` [steps] and its ``context_order`` [steps, W]; with mixup ``mixup_share`` [steps] and
        ``mixup_order`` [steps, B].
        """
        config, drawn = self.config, {}
        if self.bank is not None:
            lams = torch.empty(len(sizes))
            drawn["lambda"] = lams.uniform_(config.lambda_min, config.lambda_max, generator=generator)
            drawn["context_order"] = self.bank.orders(sizes, generator)
        if self.mixes(clock):
            drawn["mixup_share"], drawn["mixup_order"] = mixup_draws(config.mixup_alpha, sizes, generator)
        return drawn

    def begin_epoch(self, clock: Clock) -> None:
        if self.bank is not None and self.config.empty_bank == "epoch":
            self.bank.empty()

    # --- a step -----------------------------------------------------------------------------

    def before_forward(self, batches: dict[str, Batch], clock: Clock) -> dict[str, Tensor]:
        """The mask pass: the images of this step that are fitted enter the bank."""
        if not self.own_mask_pass or not self.lends(clock):
            return {}
        uniform = batches["uniform"]
        return self.lend(uniform, self.evaluation_map(uniform.images))

    def forward(self, batches: dict[str, Batch], draws: dict[str, Tensor], clock: Clock) -> Step:
        """Balanced batch, uniform batch: the released order, which running statistics remember.

        Where the uniform batch's own pass gives the masks it comes first, as printed.
        """
        measures = {}
        if self.own_mask_pass:
            balanced = self.balanced_loss(batches, draws, clock)
            uniform = self.uniform_loss(batches, draws, clock)
        else:
            images, targets = self.uniform_batch(batches["uniform"], draws, clock)
            feature_map = self.backbone.feature_map(images)
            uniform = self.classified(self.backbone.embed(feature_map), targets)
            if self.lends(clock):
                measures = self.lend(batches["uniform"], feature_map.detach())
            balanced = self.balanced_loss(batches, draws, clock)
        measures["loss_uniform"] = uniform.detach()
        if balanced is None:
            return Step(uniform, measures)
        measures["loss_balanced"] = balanced.detach()
        # A constant is not added: torch's compiler would take sum and measure for one tensor, which has no gradient.
        return Step(uniform + balanced if balanced.requires_grad else uniform, measures)

    def uniform_loss(self, batches: dict[str, Batch], draws: dict[str, Tensor], clock: Clock) -> Tensor:
        images, targets = self.uniform_batch(batches["uniform"], draws, clock)
        if self.contrast is None:
            return self.classified(self.backbone(images), targets)
        features = self.backbone(torch.cat([images, *(batches[name].images for name in VIEWS)]))
        classified = self.classified(features[: len(images)], targets)
        labels = batches["uniform"].labels
        contrasted: Tensor = self.contrast(features[len(images) :], self.uniform_head.weight, labels)
        return classified + contrasted

    def classified(self, feature: Tensor, targets: Targets) -> Tensor:
        """Cross-entropy of the uniform head, logit-adjusted where ``loss`` says so."""
        logits = self.uniform_head(feature)
        return self.cross_entropy(logits if self.log_prior is None else logits + self.log_prior, targets)

    def uniform_batch(self, batch: Batch, draws: dict[str, Tensor], clock: Clock) -> tuple[Tensor, Targets]:
        """What the uniform head learns from: the batch, mixed where mixup is on."""
        if not self.mixes(clock):
            return batch.images, [(batch.labels, 1.0)]
        return mixup(batch.images, batch.labels, draws["mixup_share"], draws["mixup_order"][: len(batch.images)])

    def balanced_loss(self, batches: dict[str, Batch], draws: dict[str, Tensor], clock: Clock) -> Tensor | None:
        """Cross-entropy of the balanced head on its batch, backgrounds blended; None before the start.

        Zero while the bank, this step's images in it, has fewer entries than the batch has images.
        """
        if not self.started(clock):
            return None
        images, labels = batches["balanced"]
        decision = self.decision(clock, len(images)) if clock.decision in (None, WITHIN) else clock.decision
        if decision != LEARNS:
            return self.idle_loss(decision)
        if self.bank is not None:
            contexts, masks = self.bank.sample(draws["context_order"], len(images))
            images = blend_context(images, contexts, masks, draws["lambda"])
        return self.cross_entropy(self.balanced_head(self.backbone(images)), [(labels, 1.0)])

    def idle_loss(self, decision: str) -> Tensor:
        """Zero, and zeros as gradients where the head decays: ``zero_grad`` of the released code's torch left them."""
        head = self.balanced_head
        return 0 * (head.weight.sum() + head.bias.sum()) if decision == DECAYS else head.weight.new_zeros(())

    @torch.no_grad()
    def evaluation_map(self, images: Tensor) -> Tensor:
        """Feature map [B, F, h, w] in evaluation mode; mode and batch-norm statistics stay as they are."""
        with evaluating(self.backbone):
            feature_map = self.backbone.feature_map(images)
        # Weights cast here carry no gradient; some versions of torch would hand them to the training pass.
        torch.clear_autocast_cache()
        return feature_map

    def lend(self, batch: Batch, feature_map: Tensor) -> dict[str, Tensor]:
        """Enter the images that the uniform head fits into the bank, with their background masks; measures.

        feature_map: of the batch's own images, outside any graph.
        """
        assert self.bank is not None
        fitted, class_map = self.fit(feature_map, batch.labels)
        height, width = batch.images.shape[2:]
        self.bank.push(batch.images, background_mask(class_map, (height, width)), fitted)
        return {"fitted": fitted.float().mean(), "bank": self.bank.count / self.bank.size}

    def fit(self, feature_map: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Whether p(y|x) >= delta under the uniform head, [B] bool, and the map of the class y, [B, h, w]."""
        closed_form = self.backbone.global_pooling
        with torch.set_grad_enabled(not closed_form):
            feature_map = feature_map.requires_grad_(not closed_form)
            logits = self.uniform_head(self.backbone.embed(feature_map)).float()
            if closed_form:
                class_map = linear_class_map(feature_map, self.uniform_head.weight, labels)
            else:
                class_map = gradient_class_map(feature_map, logits.gather(1, labels[:, None]))
        probability = logits.detach().softmax(1).gather(1, labels[:, None])[:, 0]
        return probability >= self.config.delta, class_map

    # --- evaluation -------------------------------------------------------------------------

    def logits(self, images: Tensor) -> dict[str, Tensor]:
        feature = self.backbone(images)
        uniform, balanced = self.uniform_head(feature), self.balanced_head(feature)
        mean = (uniform.float() + balanced.float()) / 2  # in bf16 the sum itself would be rounded
        return {"uniform": uniform, "balanced": balanced, "mean": mean}
