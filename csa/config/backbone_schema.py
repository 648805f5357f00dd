"""The typed settings of networks from other libraries; what the values do stands in ``conf/backbone/``."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from csa.config.locations import content_of
from csa.config.schema import BackboneConfig, number


def weights_file(weights: str | None) -> Path | None:
    """The file that ``backbone.weights`` names; None where it is a name of the library's, or null."""
    if weights is None or not ("/" in weights or weights.endswith((".pt", ".pth", ".bin", ".safetensors"))):
        return None
    return Path(weights).expanduser()


@dataclass(frozen=True, kw_only=True)
class LibraryBackbone(BackboneConfig):
    """A network of torchvision or timm. A file of ``weights`` counts by its content, wherever it lies."""

    model: str
    weights: str | None = field(metadata={"counted_as": lambda weights: content_of(weights_file(weights)) or weights})
    frozen: Literal["nothing", "trunk", "all"]
    new_last_block: bool
    drop_path: float | None = number(at_least=0, at_most=0.99)

    def without_weights(self) -> LibraryBackbone:
        return replace(self, weights=None)
