"""Several experts on shared early stages: RIDE without its router (Wang et al. 2021), SADE (Zhang et al. 2022)."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

from csa.config.method_schema import ExpertsConfig, RideConfig, SadeConfig
from csa.data.augmentation import SimAugment
from csa.methods.losses import cross_entropy, ldam_drw, log_prior
from csa.methods.method import Clock, Context, Method, Stage, Step
from csa.methods.stages import training_stage
from csa.models.heads import normalized_head
from csa.randomness import initialised_at, torch_generator

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from csa.config.schema import SamplerConfig
    from csa.data.batch import Batch
    from csa.data.loader import Loader

AGGREGATION = 1


class Experts(Method):
    """Each expert has its own last stages and a normalised classifier; their mean logits predict.

    The first expert's stages are those of ``backbone``.
    """

    config: ExpertsConfig

    def __init__(self, context: Context) -> None:
        super().__init__()
        assert isinstance(context.config, ExpertsConfig)
        config = self.config = context.config.resolved(context.protocol)
        with initialised_at(context.seed, "init", "backbone"):
            self.backbone = context.build_backbone()
        self.others, self.classifiers = nn.ModuleList(), nn.ModuleList()
        for number in range(config.experts):
            if number:
                with initialised_at(context.seed, "init", "expert", number):
                    self.others.append(context.build_backbone().late(config.own_stages))
            with initialised_at(context.seed, "init", "head", number):
                self.classifiers.append(normalized_head(self.backbone, context.num_classes))
        self.sampler = context.sampler
        self.experts = tuple(f"expert{number}" for number in range(1, config.experts + 1))
        self.heads = ("mean", *self.experts)
        self.primary_head = "mean"
        self.stages = (training_stage(context.protocol),)

    def streams(self, clock: Clock) -> dict[str, SamplerConfig]:
        return {"train": self.sampler}

    def cosines(self, images: Tensor) -> list[Tensor]:
        """Of each expert, [B, K]."""
        shared = self.backbone.early(images, self.config.own_stages)
        late = (self.backbone.late(self.config.own_stages), *self.others)
        maps = (stages(shared) for stages in late)
        return [head(self.backbone.embed(found)) for head, found in zip(self.classifiers, maps, strict=True)]

    def forward(self, batches: dict[str, Batch], draws: dict[str, Tensor], clock: Clock) -> Step:
        images, labels = batches["train"]
        return self.expert_losses(self.cosines(images), labels, clock)

    @abstractmethod
    def expert_losses(self, cosines: list[Tensor], labels: Tensor, clock: Clock) -> Step:
        """The sum over the experts."""

    def expert_logits(self, images: Tensor) -> Tensor:
        """[E, B, K] float32."""
        return torch.stack([self.config.scale * one for one in self.cosines(images)])

    def logits(self, images: Tensor) -> dict[str, Tensor]:
        each = self.expert_logits(images)
        return {"mean": each.mean(0), **dict(zip(self.experts, each, strict=True))}


# --- RIDE -----------------------------------------------------------------------------------


class Ride(Experts):
    """LDAM-DRW for each expert, less a multiple of how far it is from their mean."""

    config: RideConfig
    tilt: Tensor

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        assert isinstance(self.config, RideConfig)
        self.criterion = ldam_drw(self.config, context.counts)
        shares = log_prior(context.counts).exp() * len(context.counts)
        tilt = self.config.diversity_tilt * shares + 1 - self.config.diversity_tilt
        self.register_buffer("tilt", tilt / tilt.max(), persistent=False)

    def phase(self, clock: Clock) -> str:
        return self.criterion.phase(clock)

    def expert_losses(self, cosines: list[Tensor], labels: Tensor, clock: Clock) -> Step:
        individual = torch.stack([self.criterion(one, [(labels, 1.0)], clock) for one in cosines]).sum()
        each = [self.config.scale * one for one in cosines]
        temperature = self.tilt if self.criterion.weighs(clock) else torch.ones_like(self.tilt)
        apart = torch.stack([distance_from_mean(one, each, temperature) for one in each]).sum()
        return Step(individual - self.config.diversity * apart, {"loss_experts": individual.detach()})


def distance_from_mean(logits: Tensor, each: list[Tensor], temperature: Tensor) -> Tensor:
    """KL divergence of an expert from the mean of all, whose gradient is cut, mean over the batch.

    each: the logits of all experts, [B, K]; temperature: of each class, [K]; the squared mean of it is a factor.
    """
    mean = torch.stack(each).mean(0).detach() / temperature
    difference = mean.log_softmax(1) - (logits / temperature).log_softmax(1)
    return temperature.mean() ** 2 * (mean.softmax(1) * difference).sum(1).mean()


# --- SADE -----------------------------------------------------------------------------------


class Sade(Experts):
    """Experts for the training distribution, for a uniform one, and for the reversed one.

    aggregation=test_time: in the end they are weighted so that two views of an unlabelled test image agree.
    """

    config: SadeConfig
    priors: Tensor
    shares: Tensor

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        assert isinstance(self.config, SadeConfig)
        self.seed, self.tau = context.seed, self.config.tau
        prior = log_prior(context.counts)
        corrections = (torch.zeros_like(prior), prior, prior - self.tau * reversed_prior(prior))
        self.register_buffer("priors", torch.stack(corrections), persistent=False)
        self.stages = (training_stage(context.protocol, self.trained(context.sampler)),)
        if self.config.aggregation == "test_time":
            self.stages = (*self.stages, Stage("aggregation", 0, lambda _: 0.0))

    def trained(self, sampler: SamplerConfig) -> dict[str, Any]:
        """What the experts' stage trains: either aggregation may start from a finished one (``Stage.shared``)."""
        config = self.config
        own = {"own_stages": config.own_stages, "tau": config.tau, "scale": config.scale}
        return {"loss": "sade", **own, "sampler": asdict(sampler)}

    def expert_losses(self, cosines: list[Tensor], labels: Tensor, clock: Clock) -> Step:
        losses = [
            cross_entropy(self.config.scale * one + correction, [(labels, 1.0)])
            for one, correction in zip(cosines, self.priors, strict=True)
        ]
        measures = {f"loss_expert{number}": loss.detach() for number, loss in enumerate(losses, 1)}
        return Step(torch.stack(losses).sum(), measures)

    # --- aggregation at test time -----------------------------------------------------------

    def enter_stage(self, stage: int) -> None:
        if stage == AGGREGATION:
            self.heads, self.primary_head = ("aggregated", *self.heads), "aggregated"
            equal = torch.full((len(self.classifiers),), 1 / len(self.classifiers), device=self.priors.device)
            self.register_buffer("shares", equal)

    def prepare(self, stage: int, loader: Loader) -> None:
        """The experts' shares, from the test images without their labels."""
        if stage == AGGREGATION:
            self.shares.copy_(aggregation_weights(self.expert_logits, loader, self.config, self.seed))

    def logits(self, images: Tensor) -> dict[str, Tensor]:
        found = super().logits(images)
        if "aggregated" not in self.heads:
            return found
        each = torch.stack([found[expert] for expert in self.experts])
        return found | {"aggregated": (self.shares.view(-1, 1, 1) * each).sum(0)}


def reversed_prior(log_prior: Tensor) -> Tensor:
    """The largest class has the logarithm of the smallest one's share, and so on, [K]."""
    order = log_prior.argsort()
    backwards = torch.empty_like(log_prior)
    backwards[order] = log_prior[order.flip(0)]
    return backwards


# --- weights of experts from unlabelled test images -----------------------------------------


def aggregation_weights(logits: Callable[[Tensor], Tensor], loader: Loader, config: SadeConfig, seed: int) -> Tensor:
    """Shares of the experts (Zhang et al. 2022), [experts], that sum to 1.

    logits: of images, [experts, B, K], without gradients.

    Two views of every test image by SimAugment, and the mean cosine of their aggregated probabilities, which is
    ascended by SGD with Nesterov's momentum. (The released views are crops of the padded image; these are resized.)
    """
    weights = torch.full((config.experts,), 1 / config.experts, requires_grad=True)
    momentum, decay = config.aggregation_momentum, config.aggregation_weight_decay
    update = torch.optim.SGD([weights], config.aggregation_lr, momentum, weight_decay=decay, nesterov=True)
    for epoch in range(config.aggregation_epochs):
        generator = torch_generator(seed, "aggregation", epoch)
        for images, _ in loader.test_batches(config.aggregation_batch, whole=True):
            first, second = (logits(_view(images, config, generator)).cpu() for _ in range(2))
            with torch.enable_grad():
                (weights.grad,) = torch.autograd.grad(-stability(weights.softmax(0), first, second), weights)
            update.step()
        if weights.softmax(0).min() < config.least_share:
            break
    return weights.detach().softmax(0)


def stability(shares: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Mean cosine of the aggregated probabilities of two views, whose logits are [experts, B, K]."""
    one, other = ((shares.view(-1, 1, 1) * logits).sum(0).softmax(1) for logits in (first, second))
    return F.cosine_similarity(one, other, dim=1, eps=1e-6).mean()


def _view(images: Tensor, config: SadeConfig, generator: torch.Generator) -> Tensor:
    pixels = (255 * images).round().to(torch.uint8).permute(0, 2, 3, 1)
    height, width = images.shape[2:]
    augment = SimAugment(height, width, (config.view_area, 1.0), config.view_jitter, flip=True)
    draws = augment.draw(len(images), generator).to(images.device)
    return augment(pixels, torch.arange(len(images), device=images.device), draws)
