"""From a configuration to a backbone."""

from __future__ import annotations

from dataclasses import fields
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from csa.config.faults import Fault, UserError
from csa.config.schema import BackboneConfig

if TYPE_CHECKING:
    from collections.abc import Sequence

    from csa.models.backbone import Backbone


def import_target(key: str, path: str) -> Any:
    """What the dotted ``path`` names, a class of any installed package.

    Raises:
        UserError: nothing can be imported there; ``key`` is the configuration key to blame.
    """
    try:
        target = resolve_name(path)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(Fault(key, path, f"cannot be imported: {error}", "package.module.Class")) from error
    if not callable(target):
        raise UserError(Fault(key, path, "is no class", "package.module.Class"))
    return target


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
    target = import_target("backbone.target", config.target)
    backbone: Backbone = target(channels, height, width, tuple(mean), tuple(std), config.stem, **own)
    return backbone
