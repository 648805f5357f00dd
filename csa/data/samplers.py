"""Index streams: which images an epoch draws, in which order. numpy only.

Nothing loops over images; the class-aware cycle loops over classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from csa.config.schema import SamplerConfig

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, kw_only=True)
class ClassSequence(SamplerConfig):
    """A stream whose classes a method has drawn itself, [draws]; of each class an image is drawn uniformly."""

    classes: tuple[int, ...]

    @classmethod
    def of(cls, classes: np.ndarray) -> ClassSequence:
        numbers = tuple(classes.tolist())
        return cls(name="classes", rule="none", q=None, images_per_visit=None, draws="images", classes=numbers)


@dataclass(frozen=True, kw_only=True)
class View(SamplerConfig):
    """The images that another stream of the same step draws, augmented anew.

    of: that stream's name; augment: as the protocol does, or by SimAugment.
    """

    of: str
    augment: Literal["protocol", "sim"]

    @classmethod
    def again(cls, of: str, augment: Literal["protocol", "sim"]) -> View:
        fields = {"name": "view", "rule": "none", "q": None, "images_per_visit": None, "draws": "images"}
        return cls(**fields, of=of, augment=augment)  # type: ignore[arg-type]


def epoch_indices(
    config: SamplerConfig, labels: np.ndarray, counts: Sequence[int], generator: np.random.Generator
) -> np.ndarray:
    """Positions of the images of one epoch, int64 [draws]; ``labels`` [N] in any order, ``counts`` [K].

    A class without images is never drawn.
    """
    if isinstance(config, ClassSequence):
        return images_of_classes(np.array(config.classes), labels, counts, generator)
    length = len(labels) if config.draws == "images" else len(counts) * max(counts)
    if config.rule == "shuffle":
        return shuffled_cycle(np.arange(len(labels)), length, generator)
    if config.rule == "power" and config.q is not None:
        return draw_by_class(class_probabilities(counts, config.q), labels, counts, length, generator)
    if config.rule == "reversed":
        return draw_by_class(class_probabilities(counts, -1), labels, counts, length, generator)
    if config.rule == "class_aware" and config.images_per_visit is not None:
        return class_aware(labels, counts, config.images_per_visit, length, generator)
    raise ValueError(f"sampler {config.name!r} (rule {config.rule}) draws nothing: rule none, or q or visits missing")


def class_probabilities(counts: Sequence[int], q: float) -> np.ndarray:
    """p_k = n_k^q / sum_j n_j^q, float64 [K]."""
    sizes = np.asarray(counts, dtype=np.float64)
    present = sizes > 0
    # Exponents are taken of n_k / n_max or n_k / n_min, so that no power overflows.
    scale = sizes.max() if q > 0 else sizes[present].min()
    weights = np.power(sizes / scale, q, where=present, out=np.zeros_like(sizes))
    probabilities: np.ndarray = weights / weights.sum()
    return probabilities


def draw_by_class(
    probabilities: np.ndarray, labels: np.ndarray, counts: Sequence[int], length: int, generator: np.random.Generator
) -> np.ndarray:
    """A class by its probability, then an image of it uniformly; with replacement."""
    classes = generator.choice(len(counts), size=length, p=probabilities)
    return images_of_classes(classes, labels, counts, generator)


def images_of_classes(
    classes: np.ndarray, labels: np.ndarray, counts: Sequence[int], generator: np.random.Generator
) -> np.ndarray:
    """An image of each of these classes, uniformly; with replacement."""
    by_class, starts = _members(labels, counts)
    drawn: np.ndarray = by_class[starts[classes] + generator.integers(np.asarray(counts)[classes])]
    return drawn


def class_aware(
    labels: np.ndarray, counts: Sequence[int], images_per_visit: int, length: int, generator: np.random.Generator
) -> np.ndarray:
    """Walk a shuffled cycle of classes and take consecutive images of each from its own shuffled cycle.

    Every cycle is shuffled anew when it is exhausted (METHOD: Samplers; BASELINES 3.2).
    """
    by_class, starts = _members(labels, counts)
    present = np.flatnonzero(np.asarray(counts))
    visited = shuffled_cycle(present, -(-length // images_per_visit), generator)
    drawn = np.empty((len(visited), images_per_visit), dtype=np.int64)
    visits_by_class, visit_starts = _members(visited, np.bincount(visited, minlength=len(counts)))
    for k in present:
        visits = visits_by_class[visit_starts[k] : visit_starts[k + 1]]
        images = by_class[starts[k] : starts[k + 1]]
        drawn[visits] = shuffled_cycle(images, drawn[visits].size, generator).reshape(-1, images_per_visit)
    return drawn.ravel()[:length]


def shuffled_cycle(items: np.ndarray, length: int, generator: np.random.Generator) -> np.ndarray:
    """``length`` items: all of them in random order, again and again, in a new order each time."""
    rounds = -(-length // len(items))
    return generator.permuted(np.tile(items, (rounds, 1)), axis=1).ravel()[:length]


def _members(labels: np.ndarray, counts: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions sorted by class, and where each class starts among them, [K + 1]."""
    return np.argsort(labels, kind="stable"), np.concatenate([[0], np.cumsum(counts)])
