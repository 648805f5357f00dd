"""Cross-entropy in double precision, where the rounding of single cannot hide a mistake."""

from __future__ import annotations

from typing import TYPE_CHECKING

from csa.methods.classifier import CrossEntropy

if TYPE_CHECKING:
    from torch import Tensor


class Precise(CrossEntropy):
    """Only the recorded losses are in single. Of a backbone without batch-norm, a step treats every image by itself."""

    def enter_stage(self, stage: int) -> None:
        super().enter_stage(stage)
        self.double()

    def outputs(self, images: Tensor) -> Tensor:
        return super().outputs(images.double())
