"""What tests of several rooms share."""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import preloaded
import pytest
from composed import composer_of, config_of, tree_of
from hypothesis import settings
from tiny_words import TINY

from csa import request
from csa.config.composition import Tree
from csa.config.schema import Config

# The workers of pytest-xdist share the processor; two threads each would wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")

preloaded.install()

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
        return config_of(*tiny, f"output_root={tmp_path / 'outputs'}", *words)

    return compose


@pytest.fixture(autouse=True)
def _composed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands that are judged here, one after the other, share what they compose, as the cells of a sweep do."""
    monkeypatch.setattr(request, "Tree", lambda name, folder=None: Tree(name, folder) if folder else tree_of(name))
    monkeypatch.setattr(request, "Composer", composer_of)


@pytest.fixture(autouse=True)
def _no_store_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow leaves the address that it was last given in the environment, where csa looks for one."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="session")
def made_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of MLflow with its schema and no experiment: making one takes seconds."""
    from csa.tracking.mlflow import store

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    store._make(path)
    return path


@pytest.fixture
def uri(made_store: Path, tmp_path: Path) -> str:
    """The address of a store of one's own, ``mlflow.db`` in ``tmp_path``."""
    shutil.copy(made_store, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


def pytest_collection_finish() -> None:
    """What is imported by now stays: the garbage collector need not look through it in every test."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    gc.unfreeze()
