"""From a configuration to a backbone."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from csa.config.classes import named_class
from csa.config.faults import Fault, UserError
from csa.config.schema import BackboneConfig
from csa.models.backbone import Backbone

if TYPE_CHECKING:
    from collections.abc import Sequence


def build_backbone(
    config: BackboneConfig, image_shape: tuple[int, int, int], mean: Sequence[float], std: Sequence[float]
) -> Backbone:
    """A backbone with fresh weights (from torch's current generator) for images [channels, height, width].

    Raises:
        UserError: the images are too small for the network, or its class cannot be imported.
    """
    channels, height, width = image_shape
    if min(height, width) < config.min_size:
        problem = f"cannot take images of {height}x{width} pixels"
        raise UserError(Fault("backbone", config.name, problem, f"sides of at least {config.min_size} pixels"))
    known = [field.name for field in fields(BackboneConfig)]
    own = {field.name: getattr(config, field.name) for field in fields(config) if field.name not in known}
    target = named_class("backbone.target", config.target, Backbone)
    return target(channels, height, width, tuple(mean), tuple(std), config.stem, **own)
