"""Cross-entropy whose batch-norm is frozen at the training set's statistics: a step treats every image by itself.

In two arithmetics, to tell the rounding of one from a mistake, which is the same in both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from csa.methods.cross_entropy import CrossEntropy

if TYPE_CHECKING:
    from torch import Tensor

    from csa.data.loader import Loader


class Frozen(CrossEntropy):
    def prepare(self, stage: int, loader: Loader) -> None:
        norms = [module for module in self.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:
            norm.train().momentum = None  # the mean over all batches
        for batch in loader.training_batches(50):
            self.outputs(batch.images)
        self.eval()

    def train_stage(self, stage: int) -> None:
        self.eval()


class Precise(Frozen):
    """In double precision; only the recorded losses are in single."""

    def enter_stage(self, stage: int) -> None:
        super().enter_stage(stage)
        self.double()

    def outputs(self, images: Tensor) -> Tensor:
        return super().outputs(images.double())
