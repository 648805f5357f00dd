"""GPaCo (Cui et al. 2023): PaCo without its momentum encoder. A contrast in which every class has a centre: its logit.

An anchor is pulled to the logit of its class and, less, to images of its class; the others are two views of the batch
and a queue of earlier second views.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from csa.config.method_schema import ParametricContrastiveConfig
from csa.data.samplers import View
from csa.methods.classifier import Classifier
from csa.methods.losses import log_prior
from csa.methods.method import Clock, Context, Step
from csa.models.heads import Projection
from csa.randomness import initialised_at

if TYPE_CHECKING:
    from csa.config.schema import SamplerConfig
    from csa.data.batch import Batch

SECOND = "second"


class ParametricContrastive(Classifier):
    """queue: projected second views of the last steps [Q, D], and their labels [Q]; ``oldest`` is written next.

    As released it begins with random vectors of random classes.
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
        places = (self.oldest + torch.arange(len(labels), device=labels.device)) % size
        self.queue.index_copy_(0, places, projected)
        self.queue_labels.index_copy_(0, places, labels)
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
