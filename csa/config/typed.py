"""The composed configuration against the typed schema: all faults at once, then frozen dataclasses."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass, replace
from functools import cache
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError

from csa.config.classes import named_class
from csa.config.faults import Fault, UserError, nearest
from csa.config.rules import broken_rules
from csa.config.schema import WIRING, Config

REFERENCE, REFERENCE_SIGN = re.compile(r"\$\{([\w.]+)\}"), "${"
BOUNDS = {int: 2**63 - 1, float: 1e38}
"""Largest numbers of either sign: what torch's integers and its 32-bit floats hold."""
KINDS = {bool: "true or false", int: "an integer", float: "a number", str: "text"}
PLURAL = {int: "integers", float: "numbers", str: "texts"}

Metadata = Mapping[str, Any]


def check(config: DictConfig | dict[str, Any], doubtful: Collection[str] = ()) -> list[Fault]:
    """Every fault of a composed configuration: unknown and missing keys, types, ranges, rules between keys.

    doubtful: groups whose option could not be made out; nothing is said about their keys.
    """
    return resolve_and_check(config, doubtful)[1]


def resolve_and_check(
    config: DictConfig | dict[str, Any], doubtful: Collection[str] = ()
) -> tuple[dict[str, Any], list[Fault]]:
    """The plain values of a composed configuration, and what ``check`` says of it."""
    config = config if isinstance(config, DictConfig) else OmegaConf.create(config)
    values, found = _resolve(config)
    unresolved = {fault.key for fault in found}
    found += [fault for fault in _block(Config, values, "") if fault.key not in unresolved]
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


def build_block(schema: type, values: Mapping[str, Any]) -> Any:
    """One block, sound by ``check``, as its frozen dataclass."""
    schema = schema_of(schema, values)
    hints = _hints(schema)
    given = [field.name for field in fields(schema) if field.name in values]
    return schema(**{name: _build(hints[name], values[name]) for name in given})


def _build(hint: Any, value: Any) -> Any:
    kind, _ = _without_null(hint)
    if value is None:
        return None
    if is_dataclass(kind):
        return build_block(kind, value)  # type: ignore[arg-type]
    if get_origin(kind) is list:
        return [_build(get_args(kind)[0], item) for item in value]
    return kind(value) if kind in (float, str) else value


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
        path = _join(at, key)
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


def flat(block: Any, at: str) -> Iterator[tuple[str, Any]]:
    """The values of nested mappings by dotted key."""
    for key, value in block.items():
        path = _join(at, key)
        if isinstance(value, dict):
            yield from flat(value, path)
        else:
            yield path, value


def _join(at: str, key: object) -> str:
    return f"{at}.{key}" if at else str(key)


# --- a block against its schema -------------------------------------------------------------


def _block(schema: type, values: Any, at: str) -> Iterator[Fault]:
    if not isinstance(values, dict):
        yield Fault(at, shown(values), "is not a group of keys")
        return
    try:
        schema = schema_of(schema, values, at)
    except UserError as error:
        yield from error.faults
        return
    hints = _hints(schema)
    for key in (key for key in values if key not in hints):
        near = nearest(str(key), hints)
        allowed = ", ".join(name for name in hints if name not in WIRING)
        yield Fault(_join(at, key), shown(values[key]), "unknown key", allowed, near and _join(at, near))
    for field in fields(schema):
        path, hint = _join(at, field.name), hints[field.name]
        if field.name not in values:
            if field.default is MISSING:
                yield Fault(path, None, "is missing", expected(hint, field.metadata))
        elif is_dataclass(hint):
            yield from _block(hint, values[field.name], path)  # type: ignore[arg-type]
        else:
            yield from _leaf(path, values[field.name], hint, field.metadata)


def _leaf(path: str, value: Any, hint: Any, metadata: Metadata) -> Iterator[Fault]:
    kind, _ = _without_null(hint)
    problem = _problem(value, hint, metadata)
    if problem:
        near = nearest(str(value), get_args(kind)) if get_origin(kind) is Literal else ""
        yield Fault(path, shown(value), problem, expected(kind if value == "???" else hint, metadata), near)


def _problem(value: Any, hint: Any, metadata: Metadata) -> str:
    """What is wrong with a value, or nothing."""
    kind, nullable = _without_null(hint)
    if value is None:
        return "" if nullable else "must not be null"
    if isinstance(value, str) and value == "???":
        return "must be given"
    if get_origin(kind) is Literal:
        return "" if value in get_args(kind) else "is not one of the choices"
    if get_origin(kind) is list:
        if not isinstance(value, list):
            return "is not a list"
        problems = (_problem(item, get_args(kind)[0], metadata) for item in value)
        return next((f"{shown(item)} {problem}" for item, problem in zip(value, problems, strict=True) if problem), "")
    return _kind_problem(value, kind) or _range_problem(value, metadata)


def _kind_problem(value: Any, kind: type) -> str:
    if kind in BOUNDS and isinstance(value, (int, kind)) and not isinstance(value, bool):
        if isinstance(value, float) and not math.isfinite(value):
            return "is not a finite number"
        return "" if abs(value) <= BOUNDS[kind] else f"is beyond {BOUNDS[kind]:.4g}"
    sound = isinstance(value, (str, int) if kind is str else kind)
    if isinstance(value, bool) and kind is not bool:
        sound = False
    return "" if sound else f"is not {KINDS[kind]}"


def _range_problem(value: Any, metadata: Metadata) -> str:
    if not isinstance(value, int | float):
        return ""
    least, above, most = (metadata.get(bound) for bound in ("at_least", "above", "at_most"))
    inside = (least is None or value >= least) and (above is None or value > above) and (most is None or value <= most)
    return "" if inside else "is out of range"


# --- words ----------------------------------------------------------------------------------


def expected(hint: Any, metadata: Metadata) -> str:
    """What a field takes, in words: ``a number from 0 to 1``."""
    kind, nullable = _without_null(hint)
    if get_origin(kind) is Literal:
        text = ", ".join(map(str, get_args(kind)))
    elif get_origin(kind) is list:
        text = f"a list of {PLURAL[get_args(kind)[0]]}"
    elif is_dataclass(kind):
        return "a group of keys"
    else:
        text = KINDS[kind] + _range_in_words(metadata)
    return f"{text}, or null" if nullable else text


def _range_in_words(metadata: Metadata) -> str:
    least, above, most = (metadata.get(bound) for bound in ("at_least", "above", "at_most"))
    if least is not None and most is not None:
        return f" from {least} to {most}"
    limits = [(", at least", least), (" above", above), (", at most", most)]
    return "".join(f"{words} {limit}" for words, limit in limits if limit is not None)


def shown(value: Any) -> Any:
    """A value as it is written on the command line; None has no word of its own in a Fault."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else value


# --- type hints -----------------------------------------------------------------------------


@cache
def _hints(schema: type) -> dict[str, Any]:
    hints = get_type_hints(schema)
    return {field.name: hints[field.name] for field in fields(schema)}


def _without_null(hint: Any) -> tuple[Any, bool]:
    """The kind of a field, and whether null is allowed: ``int | None`` is (int, True)."""
    kinds = [kind for kind in get_args(hint) if kind is not NoneType]
    return (kinds[0], True) if NoneType in get_args(hint) else (hint, False)


def schema_of(schema: type, values: Mapping[str, Any], at: str = "") -> type:
    """The schema that a block names for itself (``schema: package.module.Class``), else the given one.

    at: where the block stands. Raises UserError where there is no such schema.
    """
    if "schema" not in _hints(schema) or not isinstance(values.get("schema"), str):
        return schema
    return named_class(_join(at, "schema"), values["schema"], schema)
