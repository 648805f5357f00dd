"""A trained method, back from its record."""

from __future__ import annotations

from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from csa.config.typed import build
from csa.methods.build import build_method
from csa.tracking.record import Record
from csa.training import checkpoint

if TYPE_CHECKING:
    from pathlib import Path

    from csa.config.schema import Config
    from csa.methods.method import Method


class PrimaryHead(nn.Module):
    """Images [B, C, H, W] in [0, 1] to the logits [B, K], in float32, of the head that stands for the run."""

    def __init__(self, method: Method, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.method = method
        self.image_shape = image_shape

    def forward(self, images: Tensor) -> Tensor:
        return self.method.logits(images)[self.method.primary_head].float()


def load_method(folder: Path) -> tuple[Method, Config]:
    """The method of a finished run with its trained weights, in evaluation mode on the processor.

    Raises:
        FileNotFoundError: the run is not done, or its checkpoint is gone.
        OldRecordError: written by another schema.
        DamagedCheckpointError: the checkpoint is not whole.
    """
    record = Record(folder)
    split = record.result()["split"]
    loaded = OmegaConf.load(folder / "config.yaml")
    assert isinstance(loaded, DictConfig)
    config = build(loaded)
    channels, height, width = split["image_shape"]
    method = build_method(config, (channels, height, width), split["mean"], split["std"], split["counts"])
    for stage in range(len(method.stages)):
        method.enter_stage(stage)
    method.load_state_dict(checkpoint.load(record.checkpoint)["method"])
    return method.eval(), config


def primary_head(folder: Path) -> PrimaryHead:
    """The network of a finished run as one function from images to logits; raises what ``load_method`` raises."""
    method, _ = load_method(folder)
    return PrimaryHead(method, tuple(Record(folder).result()["split"]["image_shape"])).eval()
