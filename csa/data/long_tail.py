"""The long-tailed subset of a balanced data set: how many images of each class, and which. Imports no torch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from csa.config.faults import Fault, listed
from csa.data.split import Groups
from csa.randomness import numpy_generator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from csa.config.schema import DatasetConfig

MANY_ABOVE, FEW_BELOW = 100, 20
LEGACY_SEEDS = 2**32


def class_counts(profile: str, largest: int, ratio: float, num_classes: int) -> tuple[int, ...]:
    """Images of each class [K], class 0 the largest: ``exp``, ``step`` or ``balanced``.

    Truncated, not rounded, from float64 and a power of each class's own: other forms of the same
    formula lose an image of the last class (BASELINES 1.1).
    """
    last = max(num_classes - 1, 1)
    if profile == "exp":
        return tuple(int(largest * (1 / ratio) ** (k / last)) for k in range(num_classes))
    if profile == "step":
        head = num_classes // 2
        return (largest,) * head + (int(largest / ratio),) * (num_classes - head)
    if profile == "balanced":
        return (largest,) * num_classes
    raise ValueError(f"unknown profile {profile!r}")


def wanted_counts(config: DatasetConfig, available: Sequence[int]) -> tuple[int, ...]:
    """Images that the configuration asks of each class [K], given what each class has.

    ``max_per_class: null`` stands for the size of the smallest class; ``cap`` takes no more than
    there is; ``natural`` takes everything.
    """
    if config.profile == "natural":
        return tuple(available)
    largest = min(available) if config.max_per_class is None else config.max_per_class
    counts = class_counts(config.profile, largest, config.imbalance_ratio, len(available))
    return tuple(map(min, counts, available)) if config.cap else counts


def count_faults(config: DatasetConfig, available: Sequence[int]) -> list[Fault]:
    """Classes that would be empty, that have too few images, or too few left for the holdout."""
    counts = wanted_counts(config, available)
    classes = range(len(counts))
    faults = []
    empty = [k for k in classes if counts[k] < 1]
    if empty:
        problem = f"leaves no image to class {listed(empty)} (the largest class has {max(counts)})"
        allowed = f"1 to {max(counts)}" if max(counts) else ""
        faults.append(Fault("dataset.imbalance_ratio", config.imbalance_ratio, problem, allowed))
    short = [k for k in classes if counts[k] > available[k]]
    if short:
        faults.append(_shortage(config, available, counts, short))
    spare = [k for k in classes if 0 <= available[k] - counts[k] < config.holdout]
    if config.holdout and spare:
        short_of = listed([f"class {k} leaves {available[k] - counts[k]} of {available[k]}" for k in spare], 3)
        problem = f"validation images come from those that the subset leaves unused, and {short_of}"
        most = min((available[k] - counts[k] for k in classes if k not in short), default=0)
        allowed = (
            f"at most {most} with this subset, or a smaller dataset.max_per_class with profile exp, step, balanced"
        )
        faults.append(Fault("dataset.holdout", config.holdout, problem, f"{allowed}; or dataset.holdout_share"))
    if config.holdout_share and not (faults or sum(set_aside(counts, config.holdout_share))):
        problem = "sets no image aside: every class has but one"
        faults.append(Fault("dataset.holdout_share", config.holdout_share, problem, "0"))
    return faults


def set_aside(counts: Sequence[int], fraction: float) -> tuple[int, ...]:
    """Validation images of each class [K] where they are a share of its training images.

    Rounded up, so that a small class is validated too, but one image of each stays for training.
    """
    return tuple(min(math.ceil(round(fraction * n, 6)), max(n - 1, 0)) for n in counts)


def _shortage(config: DatasetConfig, available: Sequence[int], counts: Sequence[int], short: Sequence[int]) -> Fault:
    """Too large a head is the fault of ``max_per_class``, too thick a tail that of the ratio."""
    short_of = listed([f"class {k} has {available[k]} images and needs {counts[k]}" for k in short], 3)
    allowed = "a smaller dataset.max_per_class, a larger dataset.imbalance_ratio, or dataset.cap=true"
    if short[0] == 0 or config.profile == "balanced":
        return Fault("dataset.max_per_class", config.max_per_class, short_of, allowed)
    return Fault("dataset.imbalance_ratio", config.imbalance_ratio, short_of, allowed)


def select(
    labels: np.ndarray, counts: Sequence[int], seed: int, holdout: int = 0, fraction: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the training subset, class-sorted, and of the validation images.

    The field's rule (BASELINES 1.1): for class 0, 1, ... shuffle its positions with one legacy
    generator and keep the first n_k. Whole classes are shuffled, so a subset of a higher ratio lies
    within that of a lower one, and ``holdout`` validation images a class follow those kept. A ``fraction``
    is taken from those kept, by a generator of each class's own.
    """
    # Legacy seeding takes 32 bits; of a longer seed all its words, the lowest first.
    words = [seed >> shift & (LEGACY_SEEDS - 1) for shift in range(0, seed.bit_length(), 32)]
    generator = np.random.RandomState(seed if seed < LEGACY_SEEDS else words)
    kept, held = [], []
    for k, (count, aside) in enumerate(zip(counts, set_aside(counts, fraction), strict=True)):
        positions = np.flatnonzero(labels == k)
        generator.shuffle(positions)
        drawn = numpy_generator(seed, "validation", k).permutation(count)[:aside] if aside else ()
        taken = np.array(drawn, dtype=np.int64)
        kept.append(np.delete(positions[:count], taken))
        held += [positions[taken], positions[count : count + holdout]]
    return np.concatenate(kept), np.concatenate(held)


def groups_by_rank(counts: Sequence[int], sizes: Sequence[int] | None) -> Groups:
    """The paper's shot groups: ``sizes`` classes in many, medium and few, by descending count.

    Equal counts rank in class order. None: a third (K // 3) in many and in few, the rest in medium.
    """
    many, medium, few = sizes or (len(counts) // 3, len(counts) - 2 * (len(counts) // 3), len(counts) // 3)
    if many + medium + few != len(counts):
        raise ValueError(f"groups of {many}, {medium} and {few} classes do not make {len(counts)}")
    ranked = sorted(range(len(counts)), key=lambda k: -counts[k])
    parts = (ranked[:many], ranked[many : many + medium], ranked[many + medium :])
    return Groups(*(tuple(sorted(part)) for part in parts))


def groups_by_count(counts: Sequence[int]) -> Groups:
    """The field's other shot groups: many > 100 images, few < 20."""
    return Groups(
        many=tuple(k for k, n in enumerate(counts) if n > MANY_ABOVE),
        medium=tuple(k for k, n in enumerate(counts) if FEW_BELOW <= n <= MANY_ABOVE),
        few=tuple(k for k, n in enumerate(counts) if n < FEW_BELOW),
    )


def group_faults(config: DatasetConfig, num_classes: int) -> list[Fault]:
    """Whether ``dataset.groups`` are three sizes that make up the classes."""
    sizes = config.groups
    if sizes is None or (len(sizes) == 3 and min(sizes) >= 0 and sum(sizes) == num_classes):
        return []
    problem = f"the data set has {num_classes} classes"
    return [Fault("dataset.groups", sizes, problem, f"three numbers of classes that add up to {num_classes}, or null")]
