"""Contrastive learning beside a classifier, on further views of its images: BCL and GPaCo."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from csa.config.method_schema import BalancedContrastiveConfig, ParametricContrastiveConfig
from csa.data.samplers import View
from csa.methods.classifier import Classifier
from csa.methods.losses import log_prior, logit_adjustment
from csa.methods.method import Clock, Context, Step
from csa.models.heads import Projection
from csa.randomness import initialised_at

if TYPE_CHECKING:
    from csa.config.schema import SamplerConfig
    from csa.data.batch import Batch


# --- BCL ------------------------------------------------------------------------------------


VIEWS = ("second", "third")
"""Of the contrast; the first is the classifier's."""
HIDDEN, PROJECTED = 512, 128


class BalancedContrastive(Classifier):
    """BCL (Zhu et al. 2022): logit-adjusted cross-entropy, and a contrast in which every class counts alike.

    A network beside the classifier maps two further views of an image to the unit sphere, another one the classifier's
    own weights: the classes' prototypes, so that every class is there in every batch.
    """

    def __init__(self, context: Context) -> None:
        assert isinstance(context.config, BalancedContrastiveConfig)
        self.config = context.config
        super().__init__(context, logit_adjustment(context.counts, 1.0, context.protocol.label_smoothing))
        with initialised_at(context.seed, "init", "contrast"):
            self.contrast = Contrast(self.backbone.feature_dim, self.config.temperature)

    def streams(self, clock: Clock) -> dict[str, SamplerConfig]:
        return {"train": self.sampler, **views_of("train")}

    def forward(self, batches: dict[str, Batch], draws: dict[str, Tensor], clock: Clock) -> Step:
        """All three views in one pass: batch-norm sees them together."""
        labels = batches["train"].labels
        features = self.backbone(torch.cat([batches[name].images for name in ("train", *VIEWS)]))
        classified = self.criterion(self.head(features[: len(labels)]), [(labels, 1.0)], clock)
        contrasted = self.contrast(features[len(labels) :], self.head.weight, labels)
        loss = self.config.classifier_weight * classified + self.config.contrast_weight * contrasted
        return Step(loss, {"loss_classifier": classified.detach(), "loss_contrast": contrasted.detach()})


class Contrast(nn.Module):
    """Features [B, F] and weights of a classifier [K, F] on the unit sphere, by a network of two layers each."""

    def __init__(self, features: int, temperature: float) -> None:
        super().__init__()
        self.projection, self.prototypes = _two_layers(features), _two_layers(features)
        self.temperature = temperature

    def forward(self, features: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        """The loss of two views: their features, one view after the other, [2B, F]; labels: [B]."""
        projected, prototypes = self.projection(features), self.prototypes(weight)
        return balanced_contrast(F.normalize(projected), F.normalize(prototypes), labels, self.temperature)


def _two_layers(features: int) -> Projection:
    first, last = nn.Linear(features, HIDDEN), nn.Linear(HIDDEN, PROJECTED)
    return Projection(first, nn.BatchNorm1d(HIDDEN), nn.ReLU(inplace=True), last)


def views_of(stream: str) -> dict[str, SamplerConfig]:
    """The two further views of a stream's images."""
    return {name: View.again(stream, "sim") for name in VIEWS}


def balanced_contrast(features: Tensor, prototypes: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Equation 8 of the paper, mean over the anchors.

    features: [2B, D], unit vectors of two views; prototypes: [K, D]; labels: [B]. Anchors are the features. Positive
    are the other features of the class and its prototype; in the denominator each class counts with its mean.
    """
    with torch.autocast(features.device.type, enabled=False):
        anchors, classes = len(features), len(prototypes)
        of_all = torch.cat([labels, labels, torch.arange(classes, device=labels.device)])
        likeness = features @ torch.cat([features, prototypes]).T / temperature
        likeness = likeness - likeness.detach().amax(1, keepdim=True)
        others = ~torch.eye(anchors, len(of_all), dtype=torch.bool, device=labels.device)
        positive = (of_all[:anchors, None] == of_all) & others
        sizes = F.one_hot(of_all, classes).sum(0)[of_all] - positive.long()  # of a class without the anchor
        total = (likeness.exp() * others / sizes).sum(1, keepdim=True)
        of_positives = ((likeness - total.log()) * positive).sum(1) / positive.sum(1)
        return -of_positives.mean()


# --- GPaCo ----------------------------------------------------------------------------------


SECOND = "second"


class ParametricContrastive(Classifier):
    """GPaCo (Cui et al. 2023): PaCo without its momentum encoder; each class has a centre, which is its logit.

    An anchor is pulled to the logit of its class and, less, to images of its class; the others are two views of the
    batch and a queue of earlier second views, which as released begins with random vectors of random classes.

    queue: projected second views of the last steps [Q, D], and their labels [Q]; ``oldest`` is written next.
    """

    log_prior: Tensor
    queue: Tensor
    queue_labels: Tensor
    oldest: Tensor

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        assert isinstance(context.config, ParametricContrastiveConfig)
        self.config = context.config
        features, size = self.backbone.feature_dim, self.config.queue
        with initialised_at(context.seed, "init", "projection"):
            layers = [nn.Linear(features, features), nn.ReLU(inplace=True)]
            layers += [nn.Linear(features, features), nn.ReLU(inplace=True)]
            self.projection = Projection(*layers, nn.Linear(features, self.config.projected))
        with initialised_at(context.seed, "init", "queue"):
            self.register_buffer("queue", F.normalize(torch.randn(size, self.config.projected)))
            self.register_buffer("queue_labels", torch.randint(context.num_classes, (size,)))
        self.register_buffer("oldest", torch.zeros((), dtype=torch.int64))
        self.register_buffer("log_prior", log_prior(context.counts), persistent=False)

    def streams(self, clock: Clock) -> dict[str, SamplerConfig]:
        return {"train": self.sampler, SECOND: View.again("train", "sim")}

    def forward(self, batches: dict[str, Batch], draws: dict[str, Tensor], clock: Clock) -> Step:
        """Each view is a pass of its own."""
        labels = batches["train"].labels
        features = [self.backbone(batches[name].images) for name in ("train", SECOND)]
        projected = [F.normalize(self.projection(feature)) for feature in features]
        logits = torch.cat([self.head(feature) for feature in features]) + self.log_prior
        others = torch.cat([*projected, self.queue.clone()])
        of_all = torch.cat([labels, labels, self.queue_labels.clone()])
        self.enter(projected[1].detach(), labels)
        config = self.config
        return Step(parametric_contrast(logits, others, of_all, config.temperature, config.image_weight), {})

    @torch.no_grad()
    def enter(self, projected: Tensor, labels: Tensor) -> None:
        """The newest take the places of the oldest; of more than the queue holds the last stay."""
        size = len(self.queue)
        projected, labels = projected[-size:], labels[-size:]
        positions = (self.oldest + torch.arange(len(labels), device=labels.device)) % size
        self.queue.index_copy_(0, positions, projected)
        self.queue_labels.index_copy_(0, positions, labels)
        self.oldest.copy_((self.oldest + len(labels)) % size)


def parametric_contrast(logits: Tensor, features: Tensor, labels: Tensor, temperature: float, weight: float) -> Tensor:
    """Mean over the anchors, which are the first images.

    logits: of the anchors, adjusted, [A, K]; features: unit vectors of the anchors and of others, [A + Q, D]; labels:
    [A + Q]; weight: of an image of the own class, where the class's own logit counts 1.
    """
    with torch.autocast(logits.device.type, enabled=False):
        anchors, classes = logits.shape
        likeness = features[:anchors] @ features.T / temperature
        itself = torch.eye(anchors, len(labels), dtype=torch.bool, device=labels.device)
        likelihood = torch.cat([logits.float(), likeness.masked_fill(itself, -torch.inf)], dim=1).log_softmax(1)
        alike = (labels[:anchors, None] == labels) & ~itself
        pulls = torch.cat([F.one_hot(labels[:anchors], classes).float(), weight * alike.float()], dim=1)
        pulled = torch.where(pulls > 0, likelihood, 0.0)  # minus infinity times 0 is no number
        return -((pulls * pulled).sum(1) / pulls.sum(1)).mean()
