"""Methods built from the real configuration tree, on images of a few pixels."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tiny import COUNTS, config_apart

from csa.methods.method import Method, build_method


@pytest.fixture
def build() -> Callable[..., Method]:
    """``build("method=csa", "delta=0")``: three classes, 8-pixel grey images, resnet32."""

    def method(*words: str, image_shape: tuple[int, int, int] = (1, 8, 8)) -> Method:
        mean, std = (0.5,) * image_shape[0], (0.5,) * image_shape[0]
        return build_method(config_apart(*words), image_shape, mean, std, COUNTS)

    return method
