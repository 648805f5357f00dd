"""The composed configuration against the typed schema: all faults at once, then frozen dataclasses."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError

from csa.config.blocks import block_faults, build_block, flat, join
from csa.config.faults import Fault, UserError
from csa.config.rules import broken_rules
from csa.config.schema import Config

REFERENCE = re.compile(r"\$\{([\w.]+)\}")


def resolve_and_check(
    config: DictConfig | dict[str, Any], doubtful: Collection[str] = ()
) -> tuple[dict[str, Any], list[Fault]]:
    """The plain values of a composed configuration, and every fault: unknown and missing keys, types, ranges, rules.

    doubtful: groups whose option could not be made out; nothing is said about their keys.
    """
    config = config if isinstance(config, DictConfig) else OmegaConf.create(config)
    values, found = _resolve(config)
    unresolved = {fault.key for fault in found}
    found += [fault for fault in block_faults(Config, values) if fault.key not in unresolved]
    found = [fault for fault in found if fault.key.split(".")[0] not in doubtful]
    faulty = {fault.key for fault in found}
    if found:
        # A value that is copied from another key is told once, at the key that the user can set.
        sources = _sources(config)
        found = [fault for fault in found if faulty.isdisjoint(_chain(fault.key, sources))]
        raw = dict(flat(OmegaConf.to_container(config, resolve=False), ""))
        found = [_without_secrets(fault, raw.get(fault.key)) for fault in found]
    known = {key: value for key, value in flat(values, "") if key.split(".")[0] not in doubtful}
    return values, found + broken_rules(known, faulty)


def build(config: DictConfig | dict[str, Any]) -> Config:
    """The frozen configuration of one run. Raises UserError with every fault."""
    values, faults = resolve_and_check(config)
    if faults:
        raise UserError(*faults)
    return build_block(Config, values)  # type: ignore[no-any-return]


# --- values and where they come from --------------------------------------------------------


def _without_secrets(fault: Fault, raw: Any) -> Fault:
    """What the environment holds is not printed: told is the word that refers to it."""
    return replace(fault, value=raw) if isinstance(raw, str) and "${oc.env:" in raw else fault


def _sources(config: DictConfig) -> dict[str, str]:
    """Keys whose value is another key's: ``method.delta`` is ``delta``."""
    raw = flat(OmegaConf.to_container(config, resolve=False), "")
    matches = {key: REFERENCE.fullmatch(value) for key, value in raw if isinstance(value, str)}
    return {key: match[1] for key, match in matches.items() if match}


def _chain(key: str, sources: Mapping[str, str]) -> list[str]:
    """The keys that a value comes from, each from the next; none where they lead in a circle."""
    chain = [key]
    while chain[-1] in sources:
        if sources[chain[-1]] in chain:
            return []
        chain.append(sources[chain[-1]])
    return chain[1:]


def _resolve(config: DictConfig) -> tuple[dict[str, Any], list[Fault]]:
    """Plain values, and a fault for each reference that leads nowhere (its value is then the raw text)."""
    try:
        values = OmegaConf.to_container(config, resolve=True)
    except Exception:  # whatever a resolver raises
        return _resolve_one_by_one(config, OmegaConf.to_container(config, resolve=False), "")
    return values, []  # type: ignore[return-value]


def unresolved(config: DictConfig, block: str) -> list[Fault]:
    """A fault for each reference in one block that leads nowhere."""
    raw = OmegaConf.to_container(OmegaConf.select(config, block), resolve=False)
    return _resolve_one_by_one(config, raw, block)[1]


def _resolve_one_by_one(config: DictConfig, raw: Any, at: str) -> tuple[dict[str, Any], list[Fault]]:
    values: dict[str, Any] = {}
    faults: list[Fault] = []
    for key, value in raw.items():
        path = join(at, key)
        if isinstance(value, dict):
            values[key], more = _resolve_one_by_one(config, value, path)
            faults += more
            continue
        try:
            found = OmegaConf.select(config, path)
            values[key] = OmegaConf.to_container(found) if OmegaConf.is_config(found) else found
        except InterpolationToMissingValueError:
            values[key] = "???"
        except Exception as error:
            values[key] = value
            faults.append(Fault(path, value, (str(error) or type(error).__name__).splitlines()[0]))
    return values, faults
