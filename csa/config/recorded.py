"""The configuration of a recorded run, read by a later version of csa."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any, get_type_hints

from omegaconf import DictConfig, OmegaConf

from csa.config.composition import tree
from csa.config.schema import Config
from csa.config.typed import build, schema_of

if TYPE_CHECKING:
    from pathlib import Path

GROUPS = ("dataset", "sampler", "method", "backbone", "protocol", "tracking")


def read_recorded(path: Path) -> Config:
    """The ``config.yaml`` of a record; keys that came after it have their neutral value, else that of the tree.

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
    later = {group: _neutral(group, present) for group in known}
    merged = OmegaConf.merge(present, later, recorded)
    assert isinstance(merged, DictConfig)
    return build(merged)


def _neutral(group: str, config: DictConfig) -> dict[str, Any]:
    """What a group's later keys stand for in a record without them."""
    schema = schema_of(get_type_hints(Config)[group], config[group])
    return {field.name: field.metadata["neutral"] for field in fields(schema) if "neutral" in field.metadata}
