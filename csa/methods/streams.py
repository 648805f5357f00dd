"""The index streams of methods that bring their own."""

from __future__ import annotations

from typing import Literal

from csa.config.schema import SamplerConfig

UNIFORM = SamplerConfig(name="uniform", rule="shuffle", q=1.0, images_per_visit=None, draws="images")
"""Every training image once an epoch; equal to conf/sampler/uniform.yaml."""


def class_aware(images_per_visit: int, draws: Literal["images", "cycle"]) -> SamplerConfig:
    """A shuffled cycle of classes, ``images_per_visit`` consecutive images of each."""
    return SamplerConfig(name="class_aware", rule="class_aware", q=None, images_per_visit=images_per_visit, draws=draws)


def class_balanced(draws: Literal["images", "cycle"]) -> SamplerConfig:
    """Every class equally often, with replacement."""
    return SamplerConfig(name="class_balanced", rule="power", q=0.0, images_per_visit=None, draws=draws)


def power(q: float) -> SamplerConfig:
    """Class k with a probability proportional to n_k^q, with replacement, N draws."""
    return SamplerConfig(name="power", rule="power", q=q, images_per_visit=None, draws="images")


REVERSED = SamplerConfig(name="reversed", rule="reversed", q=-1.0, images_per_visit=None, draws="images")
"""Class k with a probability proportional to 1 / n_k; equal to conf/sampler/reversed.yaml."""
