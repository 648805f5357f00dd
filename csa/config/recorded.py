"""The configuration of a recorded run, read by a later version of csa."""

from __future__ import annotations

from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from csa.config.composition import tree
from csa.config.typed import build

if TYPE_CHECKING:
    from pathlib import Path

    from csa.config.schema import Config

GROUPS = ("dataset", "sampler", "method", "backbone", "protocol", "tracking")


def read_recorded(path: Path) -> Config:
    """The ``config.yaml`` of a record; keys that came after it have the values that the tree gives them.

    Raises:
        UserError: a value that this version does not take.
    """
    recorded = OmegaConf.load(path)
    assert isinstance(recorded, DictConfig)
    with tree("config") as composer:
        known = [group for group in GROUPS if recorded[group].name in composer.options(group)]
        words = [composer.parse(f"{group}={recorded[group].name}") for group in known]
        present = composer.compose(words).config
    OmegaConf.set_struct(present, value=False)
    for group in set(GROUPS) - set(known):  # from another package, which may not be on the search path now
        present[group] = recorded[group]
    merged = OmegaConf.merge(present, recorded)
    assert isinstance(merged, DictConfig)
    return build(merged)
