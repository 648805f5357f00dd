"""What a source of images answers. Imports no torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from csa.config.schema import DatasetConfig

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from csa.config.faults import Fault
    from csa.data.split import Arrays, Images

C = TypeVar("C", bound=DatasetConfig)


@dataclass(frozen=True)
class Preview:
    """What is known of a data set before its images are read.

    class_sizes: training images of each class in the pool, [K]; image_shape: channels, height, width.
    in_memory: whether they are read at once, and do not stay in their files.
    validation: whether there are validation images beside them.
    """

    class_sizes: tuple[int, ...]
    image_shape: tuple[int, int, int]
    in_memory: bool = True
    validation: bool = False


class Source(ABC, Generic[C]):
    """Reads one kind of data set. Holds no state: everything is told by the configuration."""

    @abstractmethod
    def inspect(self, config: C, data_dir: Path, download: bool) -> list[Fault]:
        """Everything wrong that shows without a download and without reading the images."""

    @abstractmethod
    def load(self, config: C, data_dir: Path, download: bool) -> Arrays:
        """The whole training pool and the test set; raises ``UserError`` where a file cannot be read."""

    def preview(self, config: C, data_dir: Path) -> Preview | None:
        """What is cheaply known of a data set in which ``inspect`` found no fault; None: nothing."""
        return None

    def files(self, config: C, data_dir: Path) -> list[Path]:
        """The files whose change may change the data: a cached hash is trusted while they stay."""
        return []

    def relabel(self, config: C, labels: np.ndarray, num_classes: int) -> np.ndarray:
        """The training labels [N] that a method sees, given those of the chosen subset."""
        return labels

    def training_images(self, config: C, arrays: Arrays, positions: np.ndarray, labels: np.ndarray) -> Images:
        """The training images at ``positions`` [N] of the pool as a method sees them, whose labels [N] it sees."""
        return arrays.train_images[positions]
