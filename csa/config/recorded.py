"""The configuration of a recorded run, read by a later version of csa."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any, get_type_hints

import yaml  # type: ignore[import-untyped]

from csa.config.blocks import flat, schema_of
from csa.config.faults import Fault, RecordError, UserError, first_line
from csa.config.schema import Config

if TYPE_CHECKING:
    from pathlib import Path

    from omegaconf import DictConfig

REFERENCE_SIGN = "${"
GROUPS = ("dataset", "sampler", "method", "backbone", "protocol")


def recorded_values(path: Path) -> dict[str, Any]:
    """The plain values of a record's ``config.yaml``.

    A run's values are settled when it starts. One that refers to something was put there by somebody: looked up,
    ``${oc.env:...}`` would bring a secret of whoever reads the record into what is printed and exported.

    Raises:
        RecordError: it is damaged, or refers to something.
    """
    try:
        values = yaml.load(path.read_text(), Loader=yaml.CSafeLoader)  # in a tenth of the time that OmegaConf takes
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise RecordError(path, f"cannot be read ({first_line(error)})") from error
    if not isinstance(values, dict):
        raise RecordError(path, "is no configuration")
    plain = {str(key): value for key, value in values.items()}
    if references := [key for key, value in flat(plain).items() if REFERENCE_SIGN in str(value)]:
        raise RecordError(path, f"refers to something at {references[0]}", "plain values")
    return plain


def read_recorded(path: Path) -> Config:
    """The ``config.yaml`` of a record; keys that came after it have their neutral value, else that of the tree.

    How it was tracked is not read: its tracker may not be here, and its address is without password.

    Raises:
        UserError: as ``recorded_values`` does, or a value that this version does not take.
    """
    from omegaconf import DictConfig, OmegaConf

    from csa.config.composer import build
    from csa.config.composition import Tree

    recorded = OmegaConf.create({key: value for key, value in recorded_values(path).items() if key != "tracking"})
    if missing := [group for group in GROUPS if not OmegaConf.select(recorded, f"{group}.name")]:
        raise UserError(Fault("record", path, f"lacks {missing[0]}.name"))
    tree = Tree("config")
    known = [group for group in GROUPS if recorded[group].name in tree.options(group)]
    named = [f"{group}={recorded[group].name}" for group in known]
    words = [tree.parse(word) for word in (*named, "tracking=none")]
    present = tree.compose(words).config
    OmegaConf.set_struct(present, value=False)
    for group in set(GROUPS) - set(known):  # from another package, which may not be on the search path now
        present[group] = recorded[group]
    later = {group: _neutral(group, present) for group in GROUPS}
    merged = OmegaConf.merge(present, later, recorded)
    assert isinstance(merged, DictConfig)
    return build(merged)


def _neutral(group: str, config: DictConfig) -> dict[str, Any]:
    """What a group's later keys stand for in a record without them."""
    schema = schema_of(get_type_hints(Config)[group], config[group])
    return {field.name: field.metadata["neutral"] for field in fields(schema) if "neutral" in field.metadata}
