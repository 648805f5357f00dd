"""The typed settings of the data sets; what the values do stands in ``conf/dataset/``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from csa.config.schema import SIDE, DatasetConfig, neutral, number


@dataclass(frozen=True, kw_only=True)
class TorchvisionDataset(DatasetConfig):
    archive: Literal["MNIST", "FashionMNIST", "CIFAR10", "CIFAR100"]
    npz_name: str


@dataclass(frozen=True, kw_only=True)
class ColouredDataset(TorchvisionDataset):
    """CMNIST-LT: a greyscale data set tinted by a palette (METHOD: Figure 4)."""

    label_flip: float = number(at_least=0, at_most=1)
    colour_seed: int = number(at_least=0)


@dataclass(frozen=True, kw_only=True)
class DigitsDataset(DatasetConfig):
    test_per_class: int = number(at_least=1)
    enlarge: int = number(at_least=1, at_most=8)


@dataclass(frozen=True, kw_only=True)
class NpzDataset(DatasetConfig):
    path: str | None


@dataclass(frozen=True, kw_only=True)
class ImageFolderDataset(DatasetConfig):
    path: str | None
    image_size: int = number(at_least=8, at_most=SIDE)


@dataclass(frozen=True, kw_only=True)
class ListFilesDataset(DatasetConfig):
    """validation: whether those of a ``val_list`` are validation images. listed_images: of the training list."""

    root: str
    lists: str | None
    train_list: str
    val_list: str | None
    test_list: str
    listed_images: int | None = neutral(None, at_least=1)
    validation: bool
    image_size: int = number(at_least=8, at_most=SIDE)
    resize: int | None = number(at_least=8, at_most=SIDE)
    unreadable: Literal["stop", "skip"] = neutral("stop")
    identified_by: Literal["content", "sizes"] = neutral("sizes")
    cache: Literal["none", "memmap"]
    cache_dir: str
