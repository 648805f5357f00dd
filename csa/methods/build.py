"""From a configuration to a method."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from csa.config.classes import named_class
from csa.config.faults import Fault, UserError
from csa.methods.method import Context, Method
from csa.models.build import build_backbone

if TYPE_CHECKING:
    from collections.abc import Sequence

    from csa.config.schema import Config


def build_method(
    config: Config,
    image_shape: tuple[int, int, int],
    mean: Sequence[float],
    std: Sequence[float],
    counts: Sequence[int],
) -> Method:
    """The method for a data set: images [channels, height, width], ``counts`` training images of each class.

    Raises:
        UserError: the class of the method or backbone cannot be imported, the images are too small for it, or the
            protocol smooths labels of a loss that knows nothing of it.
    """
    if config.protocol.label_smoothing and not config.method.smooths:
        problem = f"method={config.method.name} has a loss that it is not defined for"
        raise UserError(Fault("protocol.label_smoothing", config.protocol.label_smoothing, problem, "0"))
    context = Context(
        config=config.method,
        sampler=config.sampler,
        protocol=config.protocol,
        counts=counts,
        image_shape=image_shape,
        build_backbone=partial(build_backbone, config.backbone, image_shape, mean, std),
        seed=config.seed,
    )
    return named_class("method.target", config.method.target, Method)(context)
