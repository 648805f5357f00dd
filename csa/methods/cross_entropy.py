"""Cross-entropy on the batches of one sampler: ``ce`` with the uniform one, ``cbrs`` with a balanced one."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from csa.methods.classifier import Classifier
from csa.methods.stages import training_stage

if TYPE_CHECKING:
    from csa.config.schema import SamplerConfig
    from csa.methods.method import Context


def trained_by_cross_entropy(sampler: SamplerConfig) -> dict[str, Any]:
    """What such a stage trains, so that other methods may start from a finished one (``Stage.shared``)."""
    return {"loss": "cross_entropy", "sampler": asdict(sampler)}


class CrossEntropy(Classifier):
    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.stages = (training_stage(context.protocol, trained_by_cross_entropy(self.sampler)),)
