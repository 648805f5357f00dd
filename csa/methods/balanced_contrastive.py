"""BCL (Zhu et al. 2022): logit-adjusted cross-entropy, and a contrast in which every class counts alike.

A network beside the classifier maps two further views of an image to the unit sphere, another one the classifier's own
weights: the classes' prototypes, so that every class is there in every batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from csa.config.method_schema import BalancedContrastiveConfig
from csa.data.samplers import View
from csa.methods.classifier import Classifier
from csa.methods.losses import logit_adjustment
from csa.methods.method import Clock, Context, Step
from csa.models.heads import Projection
from csa.randomness import initialised_at

if TYPE_CHECKING:
    from csa.config.schema import SamplerConfig
    from csa.data.batch import Batch

VIEWS = ("second", "third")
"""Of the contrast; the first is the classifier's."""
HIDDEN, PROJECTED = 512, 128


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


class BalancedContrastive(Classifier):
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


def _two_layers(features: int) -> Projection:
    first, last = nn.Linear(features, HIDDEN), nn.Linear(HIDDEN, PROJECTED)
    return Projection(first, nn.BatchNorm1d(HIDDEN), nn.ReLU(inplace=True), last)
