from __future__ import annotations

import pytest
from mlflow import MlflowClient


@pytest.fixture
def client(uri: str) -> MlflowClient:
    return MlflowClient(uri)
