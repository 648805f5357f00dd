"""What tests of several rooms share."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from csa.config.composition import tree
from csa.config.schema import Config
from csa.config.typed import build

TINY = (
    "protocol.epochs=2",
    "protocol.batch_size=16",
    "dataset.max_per_class=12",
    "dataset.imbalance_ratio=4",
    "dataset.test_per_class=5",
    "runtime.device=cpu",
    "runtime.threads=1",
    "runtime.progress=false",
    "tracking=none",
)
"""A run of seconds on scikit-learn's digits."""


@pytest.fixture
def configuration(tmp_path) -> Callable[..., Config]:
    """``configuration("method=ce")``: the typed configuration of a tiny run below ``tmp_path``."""

    def compose(*words: str) -> Config:
        with tree("config") as composer:
            every = [composer.parse(word) for word in (*TINY, f"output_root={tmp_path / 'outputs'}", *words)]
            return build(composer.compose(every).config)

    return compose
