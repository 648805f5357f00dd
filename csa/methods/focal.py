"""Focal loss (Lin et al. 2017) and its class-balanced version, CB-Focal (Cui et al. 2019)."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from csa.config.method_schema import FocalConfig
from csa.methods.classifier import Classifier
from csa.methods.losses import (
    Criterion,
    WithConstant,
    class_weights,
    distorted_softmax_focal,
    sigmoid_focal,
    softmax_focal,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from csa.methods.method import Context


class Focal(Classifier):
    head: nn.Linear

    def __init__(self, context: Context) -> None:
        assert isinstance(context.config, FocalConfig)
        config = context.config
        super().__init__(context, focal_criterion(config, context.counts))
        self.form = config.form
        self.prior_bias = config.form == "sigmoid" and config.prior_bias
        if self.prior_bias:
            # Each sigmoid starts at 1/K; at 1/2 the first loss would be about K log 2.
            torch.nn.init.constant_(self.head.bias, -math.log(context.num_classes - 1))

    def parameter_groups(self, stage: int) -> list[dict[str, Any]]:
        """As released with the sigmoid form: weight decay would pull the bias away from the prior."""
        if not self.prior_bias:
            return super().parameter_groups(stage)
        others = [parameter for parameter in self.parameters() if parameter is not self.head.bias]
        return [{"params": others}, {"params": [self.head.bias], "weight_decay": 0.0}]

    def probabilities(self, logits: Tensor) -> Tensor:
        """In the sigmoid form each class has one of its own, so that they need not add up to 1."""
        return logits.sigmoid() if self.form == "sigmoid" else super().probabilities(logits)

    def log_likelihood(self, logits: Tensor, labels: Tensor) -> Tensor:
        """In the sigmoid form of K answers, one of them yes."""
        if self.form != "sigmoid":
            return super().log_likelihood(logits, labels)
        answers = functional.one_hot(labels, logits.shape[1]).to(logits)
        return -functional.binary_cross_entropy_with_logits(logits, answers, reduction="none").sum(1)


def focal_criterion(config: FocalConfig, counts: Sequence[int]) -> Criterion:
    weights = class_weights("effective_number", counts, config.beta) if config.beta else None
    if config.form == "sigmoid":
        return Criterion(partial(sigmoid_focal, gamma=config.gamma), weights=weights)
    if config.weights == "inside" and weights is not None:
        return Criterion(WithConstant(distorted_softmax_focal, weights, config.gamma))
    return Criterion(partial(softmax_focal, gamma=config.gamma), weights=weights)
