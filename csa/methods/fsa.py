"""FSA (Chu et al. 2020): the classifier is tuned on features of tail images mixed with those of confusing classes."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np
import torch

from csa.config.faults import Fault, UserError
from csa.config.method_schema import FsaConfig
from csa.data.samplers import ClassSequence
from csa.methods.background_mask import linear_class_map
from csa.methods.classifier import Classifier, trained_by_cross_entropy
from csa.methods.losses import cross_entropy
from csa.methods.method import Stage, Step
from csa.methods.oltr import class_sums
from csa.methods.stages import UNIFORM, training_stage
from csa.models.backbone import places_of_map
from csa.randomness import numpy_generator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from csa.config.schema import SamplerConfig
    from csa.data.batch import Batch
    from csa.data.loader import Loader
    from csa.methods.method import Clock, Context

CLASSIFIER = 1
PREPARATION_BATCH = 250


class Fsa(Classifier):
    """Stage one is ``ce`` to the last bit. A batch of stage two is made of groups: a tail image, N_a of its confusing
    classes, and 1 + N_a head images; half of what the classifier sees is tail.

    confusing: [K, N_f], the classes that a class is mistaken for; there is none before stage two.
    """

    confusing: Tensor

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        assert isinstance(context.config, FsaConfig)
        self.backbone.need_map("FSA")
        if not self.backbone.global_pooling:
            problem = "FSA mixes places of the last feature map, which this backbone does not just average"
            raise UserError(Fault("backbone", None, problem, "resnet10, resnet32, resnet50, and the like"))
        self.config, self.counts, self.seed = context.config, np.array(context.counts), context.seed
        self.batch_size = context.protocol.batch_size
        self.number = min(self.config.confusing, context.num_classes - 1)
        self.group = 2 * (1 + self.number)
        self.head_classes = np.array(head_classes(context.counts, self.config.head_share))
        self.tail_classes = np.setdiff1d(np.arange(context.num_classes), self.head_classes)
        self.positions = places_of_map(self.backbone, context.image_shape)[1]
        self.stages = (
            training_stage(context.protocol, trained_by_cross_entropy(UNIFORM)),
            Stage("classifier", self.config.epochs, lambda _: self.config.lr),
        )

    def enter_stage(self, stage: int) -> None:
        self.backbone.requires_grad_(stage != CLASSIFIER)
        if stage == CLASSIFIER:
            self.register_buffer("confusing", torch.zeros(len(self.counts), self.number, dtype=torch.int64))

    def train_stage(self, stage: int) -> None:
        self.train()
        self.backbone.train(stage != CLASSIFIER)

    def prepare(self, stage: int, loader: Loader) -> None:
        if stage != CLASSIFIER:
            return
        sums = torch.zeros(len(self.counts), len(self.counts), device=self.confusing.device)
        for images, labels in loader.training_batches(PREPARATION_BATCH):
            sums += class_sums(self.outputs(images).softmax(1), labels, len(self.counts))[0]
        self.confusing.copy_(confusing_classes(sums, self.number))

    # --- batches ----------------------------------------------------------------------------

    def streams(self, clock: Clock) -> dict[str, SamplerConfig]:
        if clock.stage != CLASSIFIER:
            return {"train": UNIFORM}
        generator = numpy_generator(self.seed, "fsa", clock.stage, clock.epoch)
        steps = max(1, int(self.counts.sum()) // self.batch_size)
        confusing = self.confusing.cpu().numpy()
        classes = [self.classes_of_step(confusing, generator) for _ in range(steps)]
        return {"train": ClassSequence.of(np.concatenate(classes))}

    def classes_of_step(self, confusing: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Classes of a batch [B]: of the groups one after another, then of what is left, which is head."""
        groups = self.batch_size // self.group if len(self.tail_classes) else 0
        tail = self._random_images(self.tail_classes, (groups, 1), generator)
        picks = generator.integers(self.number, size=(groups, self.number))
        confused = np.take_along_axis(confusing[tail[:, 0]], picks, axis=1)
        head = self._random_images(self.head_classes, (groups, 1 + self.number), generator)
        rest = self._random_images(self.head_classes, (self.batch_size - groups * self.group,), generator)
        return np.concatenate([np.hstack([tail, confused, head]).ravel(), rest])

    def _random_images(self, classes: np.ndarray, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
        """Classes of random images of these classes: a class by its size."""
        if not len(classes):
            return np.zeros(shape, dtype=np.int64)
        sizes = self.counts[classes]
        chosen: np.ndarray = generator.choice(classes, size=shape, p=sizes / sizes.sum())
        return chosen

    def draws(self, clock: Clock, sizes: Sequence[int], generator: torch.Generator) -> dict[str, Tensor]:
        """``gamma`` [steps, groups * N_a], and ``vectors`` [steps, 2, groups * N_a, L] in [0, 1): which are drawn."""
        if clock.stage != CLASSIFIER:
            return {}
        mixed = max(sizes) // self.group * self.number
        gamma = torch.rand(len(sizes), mixed, generator=generator)
        return {"gamma": gamma, "vectors": torch.rand(len(sizes), 2, mixed, self.positions, generator=generator)}

    # --- a step -----------------------------------------------------------------------------

    def forward(self, batches: dict[str, Batch], draws: dict[str, Tensor], clock: Clock) -> Step:
        if clock.stage != CLASSIFIER:
            return super().forward(batches, draws, clock)
        with torch.no_grad():
            feature, labels = self.mixed_features(batches["train"], draws)
        return Step(cross_entropy(self.head(feature), [(labels, 1.0)]), {})

    def mixed_features(self, batch: Batch, draws: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Features [B, F] and labels [B]: in the place of each confusing image stands the mix, labelled tail."""
        feature_map, labels = self.backbone.feature_map(batch.images).float(), batch.labels
        weight = self.head.get_parameter("weight")
        own = scaled_map(linear_class_map(feature_map, weight, labels).flatten(1))
        vectors = feature_map.flatten(2).transpose(1, 2)
        groups = len(labels) // self.group
        first = torch.arange(groups, device=labels.device) * self.group
        tail = first.repeat_interleave(self.number)
        confusing = (first[:, None] + torch.arange(1, 1 + self.number, device=labels.device)).flatten()
        uniform = draws["vectors"][:, : len(tail)]
        specific = picked(vectors[tail], own[tail] > self.config.specific, uniform[0])
        generic = picked(vectors[confusing], own[confusing] < self.config.generic, uniform[1])
        feature = self.backbone.embed(feature_map).index_copy(
            0, confusing, mixed_feature(specific, generic, draws["gamma"][: len(tail)])
        )
        return feature, labels.index_copy(0, confusing, labels[tail])


# --- rules ----------------------------------------------------------------------------------


def head_classes(counts: Sequence[int], fraction: float) -> list[int]:
    """The fewest classes, by descending size, that hold ``share`` of all images."""
    ranked = sorted(range(len(counts)), key=lambda k: -counts[k])
    held = accumulate(counts[k] for k in ranked)
    enough = fraction * sum(counts) - 1e-9 * sum(counts)  # 0.9 of 10 is 9, whatever a float says
    return ranked[: 1 + sum(total < enough for total in held)]


def confusing_classes(probability_sums: Tensor, most: int) -> Tensor:
    """By class, the ``most`` other classes that its images are mistaken for, most probable first, [K, most].

    probability_sums: [K, K], softmax scores summed over the training images of each class (row).
    """
    others = probability_sums.clone().fill_diagonal_(-1.0)
    return others.argsort(dim=1, descending=True, stable=True)[:, :most]


def scaled_map(class_map: Tensor) -> Tensor:
    """To [0, 1] by each image's minimum and maximum, [B, L]; a flat map points nowhere: 0."""
    lowest, highest = class_map.amin(1, keepdim=True), class_map.amax(1, keepdim=True)
    contrast = highest - lowest
    return torch.where(contrast > 0, (class_map - lowest) / torch.where(contrast > 0, contrast, 1.0), 0.0)


def picked(vectors: Tensor, wanted: Tensor, uniform: Tensor) -> Tensor:
    """Vectors drawn with repetition from those that are wanted, [B, n, F].

    vectors: [B, L, F]; wanted: [B, L] bool, of which zero vectors are no part; uniform: [B, n] in [0, 1). Where
    nothing is wanted all but zero vectors are, and of an image of zeros all.
    """
    present = vectors.abs().sum(2) > 0
    mask = torch.ones_like(present)
    for better in (present, wanted & present):
        mask = torch.where(better.any(1, keepdim=True), better, mask)
    cumulative = mask.double().cumsum(1)
    positions = torch.searchsorted(cumulative, uniform.double() * cumulative[:, -1:], right=True)
    positions = positions.clamp_max(vectors.shape[1] - 1)
    return vectors.gather(1, positions[:, :, None].expand(-1, -1, vectors.shape[2]))


def mixed_feature(tail: Tensor, generic: Tensor, gamma: Tensor) -> Tensor:
    """The mean of ``gamma L`` tail vectors and ``(1 - gamma) L`` generic ones, [B, F]; both [B, L, F], gamma [B]."""
    positions = tail.shape[1]
    own = torch.arange(positions, device=tail.device) < (gamma[:, None] * positions).round()
    return torch.where(own[:, :, None], tail, generic).mean(1)
