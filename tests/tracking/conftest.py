from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
from mlflow import MlflowClient

from csa.tracking.mlflow import store

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def made_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with its schema and no experiment: making one takes seconds."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    store._make(path)
    return path


@pytest.fixture
def uri(made_store: Path, tmp_path: Path) -> str:
    shutil.copy(made_store, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture
def client(uri: str) -> MlflowClient:
    return MlflowClient(uri)
