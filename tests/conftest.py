"""What tests of several rooms share."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from hypothesis import settings
from tiny_words import TINY

from csa.config.composition import tree
from csa.config.schema import Config
from csa.config.typed import build

# The workers of pytest-xdist share the processor; two threads each would wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# How long an example takes says more of what else the machine is doing than of the code.
settings.register_profile("csa", deadline=None)
settings.load_profile("csa")


@pytest.fixture
def configuration(tmp_path) -> Callable[..., Config]:
    """``configuration("method=ce")``: the typed configuration of a tiny run below ``tmp_path``.

    of_digits=False leaves out the word that only the digits know.
    """

    def compose(*words: str, of_digits: bool = True) -> Config:
        tiny = [word for word in TINY if of_digits or "test_per_class" not in word]
        with tree("config") as composer:
            every = [composer.parse(word) for word in (*tiny, f"output_root={tmp_path / 'outputs'}", *words)]
            return build(composer.compose(every).config)

    return compose


@pytest.fixture(autouse=True)
def _no_store_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow leaves the address that it was last given in the environment, where csa looks for one."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
