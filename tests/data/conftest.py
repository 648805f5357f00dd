from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from csa.config.locations import shipped
from csa.config.schema import ProtocolConfig, SamplerConfig, StageTwoConfig

CONF = Path(__file__).parents[2] / "conf"


@pytest.fixture
def dataset_config():
    """A data set's typed configuration as its YAML says, with changes."""

    def make(name, **changes):
        values = shipped("dataset", name)
        module, _, schema = values["schema"].rpartition(".")
        return getattr(import_module(module), schema)(**{**values, **changes})

    return make


@pytest.fixture
def sampler_config():
    def make(rule, q=None, images_per_visit=None, draws="images"):
        return SamplerConfig(name=rule, rule=rule, q=q, images_per_visit=images_per_visit, draws=draws)

    return make


@pytest.fixture
def protocol_config():
    def make(name="digits", **changes):
        values = OmegaConf.to_container(OmegaConf.load(CONF / "protocol" / f"{name}.yaml"))
        return ProtocolConfig(**{**values, "stage_two": StageTwoConfig(**values["stage_two"]), **changes})

    return make


@pytest.fixture
def write_npz(tmp_path):
    """A small valid file of three classes, 8x8 RGB, with some arrays replaced (None: left out)."""

    def write(path=None, train=(6, 5, 4), **changes):
        path = path or tmp_path / "small.npz"
        rng = np.random.default_rng(0)
        labels = np.repeat(np.arange(len(train)), train)
        test = np.repeat(np.arange(len(train)), 2)
        arrays = {
            "x_train": rng.integers(0, 256, (len(labels), 8, 8, 3), dtype=np.uint8),
            "y_train": rng.permutation(labels),
            "x_test": rng.integers(0, 256, (len(test), 8, 8, 3), dtype=np.uint8),
            "y_test": test,
            **changes,
        }
        np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
        return path

    return write


@pytest.fixture
def real_data():
    folder = os.environ.get("CSA_DATA")
    if not folder:
        pytest.skip("CSA_DATA is not set: no real data sets")
    return Path(folder)
