"""The same work plainly written, as research code is: what the product's speed is held against.

Images go through PIL one by one in the workers of a DataLoader, arithmetic is fp32 in contiguous memory, the optimiser
plain SGD, every step's loss is read. CSA follows the paper's Algorithm 1 with a Grad-CAM by hooks; none of it is
shared with the product.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision import transforms

from benchmarks.conditions import wait
from benchmarks.table import Row
from csa.config.method_schema import ContextShiftConfig

if TYPE_CHECKING:
    from csa.config.schema import Config
    from csa.data.split import Split

WORKERS = 2
IMAGES_PER_VISIT = 4
Pair = tuple[Tensor, Tensor]
T = TypeVar("T")


# --- data -----------------------------------------------------------------------------------


class PlainImages(Dataset[tuple[Tensor, int]]):
    """images: uint8 [N, H, W, 3]."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, transform: Callable[[Image.Image], Tensor]) -> None:
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), int(self.labels[index])


class ClassAware(Sampler[int]):
    """A shuffled cycle of classes, of each so many images from the class's own shuffled cycle; N draws."""

    def __init__(self, labels: np.ndarray) -> None:
        self.members = [np.flatnonzero(labels == k).tolist() for k in np.unique(labels)]
        self.length = len(labels)

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        return islice(self._draws(), self.length)

    def _draws(self) -> Iterator[int]:
        images = [_shuffled_again_and_again(members) for members in self.members]
        for k in _shuffled_again_and_again(range(len(images))):
            for _ in range(IMAGES_PER_VISIT):
                yield next(images[k])


def _shuffled_again_and_again(items: Sequence[int]) -> Iterator[int]:
    while True:
        for position in torch.randperm(len(items)).tolist():
            yield items[position]


# --- the network -----------------------------------------------------------------------------


class Block(nn.Module):
    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.stride, self.missing = stride, width - width_in

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.missing:
            half = self.missing // 2
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, half))
        return F.relu(out + x)


class Network(nn.Module):
    """ResNet-32 with two classifiers, of which cross-entropy trains one.

    Normalised images [B, 3, H, W] -> ``early`` -> ``late`` -> feature map [B, 64, H/4, W/4] -> feature [B, 64].
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        stem = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
        self.early = nn.Sequential(*stem, *_blocks(16, 16, 1), *_blocks(16, 32, 2))
        self.late = nn.Sequential(*_blocks(32, 64, 2))
        self.uniform = nn.Linear(64, classes)
        self.balanced = nn.Linear(64, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, images: Tensor) -> Tensor:
        """The feature that both classifiers read."""
        features: Tensor = self.late(self.early(images))
        return features.mean((2, 3))


def _blocks(width_in: int, width: int, stride: int) -> list[Block]:
    return [Block(width_in, width, stride), *(Block(width, width, 1) for _ in range(4))]


# --- training -------------------------------------------------------------------------------


class CrossEntropy:
    """A network trained on batches of normalised images and labels."""

    def __init__(self, classes: int, config: Config, device: torch.device) -> None:
        self.device = device
        self.network = Network(classes).to(device)
        protocol = config.protocol
        self.optimiser = torch.optim.SGD(
            self.network.parameters(),
            lr=protocol.lr, momentum=protocol.momentum, weight_decay=protocol.weight_decay, nesterov=protocol.nesterov,
        )  # fmt: skip
        self.total_loss = 0.0

    def step(self, batch: Pair) -> int:
        """Returns the number of images, as every step does."""
        images, labels = (part.to(self.device) for part in batch)
        self.network.train()
        loss = F.cross_entropy(self.network.uniform(self.network(images)), labels)
        self.update(loss)
        self.total_loss += loss.item()
        return len(labels)

    def update(self, loss: Tensor) -> None:
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()

    def heads(self, images: Tensor) -> list[Tensor]:
        return [self.network.uniform(self.network(images))]


class ContextShift(CrossEntropy):
    """Algorithm 1 as released: masks from a pass in evaluation mode, a bank, two branches (METHOD: CSA)."""

    def __init__(self, classes: int, config: Config, device: torch.device) -> None:
        super().__init__(classes, config, device)
        assert isinstance(config.method, ContextShiftConfig)
        self.delta, self.size = config.method.delta, config.protocol.batch_size
        self.total_balanced_loss = 0.0
        self.draw = np.random.default_rng(config.seed)
        self.bank_images = torch.empty(0, device=device)
        self.bank_masks = torch.empty(0, device=device)

    def masks(self, images: Tensor, labels: Tensor) -> Pair:
        """p(y|x) [B] and background masks [B, 1, H, W]. The backward pass ends where the last stage begins."""
        maps: list[Tensor] = []
        gradients: list[Tensor] = []

        def keep(_module: object, _inputs: object, output: Tensor) -> None:
            maps.append(output.detach())
            output.register_hook(gradients.append)  # type: ignore[no-untyped-call]

        self.network.eval()
        hook = self.network.late.register_forward_hook(keep)
        with torch.no_grad():
            early = self.network.early(images)
        logits = self.network.uniform(self.network.late(early).mean((2, 3)))
        hook.remove()
        self.optimiser.zero_grad()
        logits.gather(1, labels[:, None]).sum().backward()
        weights = gradients[0].mean((2, 3), keepdim=True)
        cam = F.relu((weights * maps[0]).sum(1, keepdim=True))
        least, most = cam.amin((2, 3), keepdim=True), cam.amax((2, 3), keepdim=True)
        cam = (cam - least) / (most - least).clamp_min(torch.finfo(cam.dtype).tiny)
        cam = F.interpolate(cam, images.shape[2:], mode="bicubic", align_corners=False).clamp(0, 1)
        probability = logits.detach().softmax(1).gather(1, labels[:, None])[:, 0]
        return probability, (1 - cam) ** 2

    def step_of_two(self, batches: tuple[Pair, Pair]) -> int:
        (images, labels), (others, other_labels) = ([part.to(self.device) for part in batch] for batch in batches)
        probability, masks = self.masks(images, labels)
        fitted = probability >= self.delta
        self.bank_images = torch.cat([self.bank_images, images[fitted]])[-self.size :]
        self.bank_masks = torch.cat([self.bank_masks, masks[fitted]])[-self.size :]
        self.network.train()
        loss = F.cross_entropy(self.network.uniform(self.network(images)), labels)
        self.total_loss += loss.item()
        if len(self.bank_images) == self.size:
            blended = self.blend(others, float(self.draw.uniform()))
            balanced = F.cross_entropy(self.network.balanced(self.network(blended)), other_labels)
            self.total_balanced_loss += balanced.item()
            loss = loss + balanced
        self.update(loss)
        return len(labels)

    def blend(self, images: Tensor, lam: float) -> Tensor:
        order = self.draw.permutation(self.size)[: len(images)]
        weight = lam * self.bank_masks[order]
        return weight * self.bank_images[order] + (1 - weight) * images

    def heads(self, images: Tensor) -> list[Tensor]:
        feature = self.network(images)
        uniform, balanced = self.network.uniform(feature), self.network.balanced(feature)
        return [uniform, balanced, (uniform + balanced) / 2]


# --- an epoch and an evaluation -------------------------------------------------------------


class Reference:
    """Seconds of an epoch of each variant and of the evaluation of the test set after it."""

    rows = (
        Row("reference_ce", "reference: epoch, evaluation, ce", "s", "epoch_ce"),
        Row("reference_csa", "reference: epoch, evaluation, csa", "s", "epoch_csa"),
        Row("reference_csa_again", "the same beside csa, re-used", "s", "epoch_csa_reused"),
    )

    def __init__(self, config: Config, split: Split, device: torch.device, steps: int | None) -> None:
        self._config, self._device, self._steps = config, device, steps
        self._classes = len(split.classes)
        padding = config.protocol.crop_padding
        plain = [transforms.ToTensor(), transforms.Normalize(split.mean, split.std)]
        crop = [transforms.RandomCrop(split.image_shape[1:], padding), transforms.RandomHorizontalFlip()]
        assert isinstance(split.train_images, np.ndarray)
        assert isinstance(split.test_images, np.ndarray)
        self._train = PlainImages(split.train_images, split.train_labels, transforms.Compose([*crop, *plain]))
        self._test = PlainImages(split.test_images, split.test_labels, transforms.Compose(plain))

    def measure(self) -> dict[str, float]:
        csa = self._context_shift()
        return {"reference_ce": self._cross_entropy(), "reference_csa": csa, "reference_csa_again": csa}

    def _cross_entropy(self) -> float:
        learner = CrossEntropy(self._classes, self._config, self._device)
        return self._pass(self._uniform(), learner.step, self._train) + self._evaluation(learner)

    def _context_shift(self) -> float:
        learner = ContextShift(self._classes, self._config, self._device)

        def pairs() -> Iterator[tuple[Pair, Pair]]:
            yield from zip(self._uniform(), self._balanced(), strict=True)

        return self._pass(pairs(), learner.step_of_two, self._train) + self._evaluation(learner)

    def _evaluation(self, learner: CrossEntropy) -> float:
        correct: dict[int, int] = {}

        @torch.no_grad()
        def score(batch: Pair) -> int:
            images, labels = (part.to(self._device) for part in batch)
            for head, logits in enumerate(learner.heads(images)):
                correct[head] = correct.get(head, 0) + int((logits.argmax(1) == labels).sum())
            return len(labels)

        learner.network.eval()
        return self._pass(self._loader(self._test), score, self._test)

    def _uniform(self) -> DataLoader[Pair]:
        return self._loader(self._train, shuffle=True)

    def _balanced(self) -> DataLoader[Pair]:
        return self._loader(self._train, sampler=ClassAware(self._train.labels))

    def _loader(
        self, images: PlainImages, *, shuffle: bool | None = None, sampler: Sampler[int] | None = None
    ) -> DataLoader[Pair]:
        size = self._config.protocol.batch_size
        return DataLoader(images, size, shuffle, sampler, num_workers=WORKERS)  # type: ignore[arg-type]

    def _pass(self, batches: Iterable[T], step: Callable[[T], int], images: PlainImages) -> float:
        """Seconds of all batches. Of a few: the first, with the start of the workers, is left out, the others count
        for all images.
        """
        size = self._config.protocol.batch_size
        few = self._steps if self._steps is not None and (self._steps + 1) * size < len(images) else None
        began, seen = time.perf_counter(), 0
        for number, batch in enumerate(batches):
            seen += step(batch)
            if few is not None and number == 0:
                wait(self._device)
                began, seen = time.perf_counter(), 0
            if number == few:
                break
        wait(self._device)
        return (time.perf_counter() - began) * len(images) / seen
