"""Plain values against the dataclass that describes them: types, ranges, missing and unknown keys."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from inspect import getattr_static
from pkgutil import resolve_name
from types import NoneType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from csa.config import dataset_schema, method_schema
from csa.config import schema as common_schema
from csa.config.faults import Fault, UserError, nearest
from csa.config.locations import MOVED

BOUNDS = {int: 2**63 - 1, float: 1e38}
"""Largest numbers of either sign: what torch's integers and its 32-bit floats hold."""
KINDS = {bool: "true or false", int: "an integer", float: "a number", str: "text"}
PLURAL = {int: "integers", float: "numbers", str: "texts"}
MISSED = "is missing"

METHOD_WIRING = ("schema", "target", "streams", "published")
WIRING = (*METHOD_WIRING, "source")
"""Keys by which a file of ``conf/`` names its code; no word of a command is meant to be one of them."""
SCHEMAS = (common_schema, dataset_schema, method_schema)

Metadata = Mapping[str, Any]
T = TypeVar("T")


def recorded_faults(schema: type, values: Any, at: str = "", lacking: Collection[str] = ()) -> list[Fault]:
    """What is wrong with values of a record that a dataclass describes; of a later version they may have more keys.

    at: where the values stand. Fields that have a default, that came after records exist (``neutral``, ``later``), or
    whose name is in ``lacking`` may be missing.
    """
    found = block_faults(schema, values, at, recorded=True)
    return [fault for fault in found if fault.problem != MISSED or fault.key.rpartition(".")[2] not in lacking]


def build_block(schema: type, values: Mapping[str, Any]) -> Any:
    """One block, sound by ``check``, as its frozen dataclass."""
    schema = schema_of(schema, values)
    return schema(**build_fields(schema, values))


def build_fields(schema: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Those fields of a dataclass whose values are there, as ``build_block`` builds them."""
    return {name: _build(hint, values[name]) for name, hint in _hints(schema).items() if name in values}


def _build(hint: Any, value: Any) -> Any:
    kind, _ = _without_null(hint)
    if value is None:
        return None
    if is_dataclass(kind):
        return build_block(kind, value)  # type: ignore[arg-type]
    if get_origin(kind) is list:
        return [_build(get_args(kind)[0], item) for item in value]
    return kind(value) if kind in (float, str) else value


# --- a block against its schema -------------------------------------------------------------


def block_faults(schema: type, values: Any, at: str = "", *, recorded: bool = False) -> Iterator[Fault]:
    """recorded: as for ``recorded_faults``."""
    if not isinstance(values, dict):
        yield Fault(at or "content", shown(values), "is not a group of keys")
        return
    try:
        schema = schema_of(schema, values, at)
    except UserError as error:
        if not (recorded and isinstance(error.__cause__, ImportError)):  # a record of a package that is not there
            yield from error.faults
            return
    hints = _hints(schema)
    for key in (key for key in values if key not in hints and not recorded):
        near = nearest(str(key), hints)
        allowed = ", ".join(name for name in hints if name not in WIRING)
        yield Fault(join(at, key), shown(values[key]), "unknown key", allowed, near and join(at, near))
    for field in fields(schema):
        path, hint = join(at, field.name), hints[field.name]
        if field.name in values:
            yield from _value(path, values[field.name], hint, field.metadata, recorded=recorded)
        elif not _may_be_missing(field, recorded=recorded):
            yield Fault(path, None, MISSED, expected(hint, field.metadata))


def _may_be_missing(field: Field[Any], *, recorded: bool) -> bool:
    return field.default is not MISSING or (recorded and not field.metadata.keys().isdisjoint(("neutral", "later")))


def _value(path: str, value: Any, hint: Any, metadata: Metadata, *, recorded: bool) -> Iterator[Fault]:
    kind, nullable = _without_null(hint)
    if kind is Any or (value is None and nullable):
        return
    if kind in BOUNDS or kind is bool:  # as most of a record are
        yield from _leaf(path, value, hint, metadata)
    elif is_dataclass(kind):
        yield from block_faults(kind, value, path, recorded=recorded)  # type: ignore[arg-type]
    elif get_origin(kind) is dict and isinstance(value, dict):
        for key, item in value.items():
            yield from _value(join(path, key), item, get_args(kind)[1], metadata, recorded=recorded)
    elif get_origin(kind) is dict:
        yield Fault(path, shown(value), "is not a group of keys")
    elif recorded and kind in (str, list[str]) and int in map(type, value if isinstance(value, list) else [value]):
        yield Fault(path, shown(value), "is not text")  # a word of the command line may be: variant=5
    else:
        yield from _leaf(path, value, hint, metadata)


def _leaf(path: str, value: Any, hint: Any, metadata: Metadata) -> Iterator[Fault]:
    problem = _problem(value, hint, metadata)
    if problem:
        kind, _ = _without_null(hint)
        near = nearest(str(value), get_args(kind)) if get_origin(kind) is Literal else ""
        yield Fault(path, shown(value), problem, expected(kind if value == "???" else hint, metadata), near)


def _problem(value: Any, hint: Any, metadata: Metadata) -> str:
    """What is wrong with a value, or nothing."""
    kind, nullable = _without_null(hint)
    if value is None:
        return "" if nullable else "must not be null"
    if isinstance(value, str) and value == "???":
        return "must be given"
    origin = get_origin(kind)
    if origin is Literal:
        return "" if value in get_args(kind) else "is not one of the choices"
    if origin is list:
        if not isinstance(value, list):
            return "is not a list"
        problems = (_problem(item, get_args(kind)[0], metadata) for item in value)
        return next((f"{shown(item)} {problem}" for item, problem in zip(value, problems, strict=True) if problem), "")
    return _kind_problem(value, kind) or _range_problem(value, metadata)


def _kind_problem(value: Any, kind: type) -> str:
    if kind in BOUNDS and type(value) in (int, kind):
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


def flat(block: Any, at: str = "") -> dict[str, Any]:
    """The values of nested mappings by dotted key."""
    values: dict[str, Any] = {}
    for key, value in block.items():
        path = join(at, key)
        values |= flat(value, path) if isinstance(value, dict) else {path: value}
    return values


def join(at: str, key: object) -> str:
    return f"{at}.{key}" if at else str(key)


# --- words ----------------------------------------------------------------------------------


def expected(hint: Any, metadata: Metadata) -> str:
    """What a field takes, in words: ``a number from 0 to 1``."""
    kind, nullable = _without_null(hint)
    if get_origin(kind) is Literal:
        text = ", ".join(map(str, get_args(kind)))
    elif get_origin(kind) is list:
        text = f"a list of {PLURAL[_without_null(get_args(kind)[0])[0]]}"
    elif is_dataclass(kind) or get_origin(kind) is dict:
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


# --- classes and their type hints -----------------------------------------------------------


@cache
def _hints(schema: type) -> dict[str, Any]:
    hints = get_type_hints(schema)
    return {field.name: hints[field.name] for field in fields(schema)}


def _without_null(hint: Any) -> tuple[Any, bool]:
    """The kind of a field, and whether null is allowed: ``int | None`` is (int, True).

    Not cached: literals of the same choices are equal in any order, and messages name them in theirs.
    """
    if hint in KINDS:  # as most are
        return hint, False
    choices = get_args(hint)
    return (next(kind for kind in choices if kind is not NoneType), True) if NoneType in choices else (hint, False)


def schema_of(schema: type, values: Mapping[str, Any], at: str = "") -> type:
    """The schema that a block names for itself (``schema: package.module.Class``), else the given one.

    at: where the block stands. Raises UserError where there is no such schema.
    """
    if "schema" not in _hints(schema) or not isinstance(values.get("schema"), str):
        return schema
    return named_class(join(at, "schema"), _present_path(values["schema"]), schema)


def _present_path(path: str) -> str:
    """A schema of ours is known by its class's name: older records say in which module it was then."""
    package, _, name = path.rpartition(".")
    there = [module.__name__ for module in SCHEMAS if hasattr(module, name)]
    return f"{there[0]}.{name}" if there and package.startswith("csa.config.") else path


def named_class(key: str, path: str, base: type[T]) -> type[T]:
    """The class at ``path``, or that lay there (``MOVED``), derived from ``base``; it is imported, not called.

    Raises:
        UserError: there is no such class; ``key`` is the configuration key to blame.
    """
    allowed = f"package.module.Class, derived from {base.__name__}"
    try:
        named = resolve_name(MOVED.get(path, path))
    except (Exception, SystemExit) as error:  # whatever a module raises while it is imported
        reason = str(error) if isinstance(error, ImportError) else f"{type(error).__name__}: {error}"
        raise UserError(Fault(key, path, f"cannot be imported ({reason})", allowed)) from error
    if not (isinstance(named, type) and issubclass(named, base)):
        raise UserError(Fault(key, path, "is no such class", allowed))
    if abstract := _abstract_methods(named):  # type: ignore[arg-type]
        raise UserError(Fault(key, path, f"is a base class, without {', '.join(abstract)}", allowed))
    return named


@cache
def _abstract_methods(named: type) -> list[str]:
    return [name for name in dir(named) if getattr(getattr_static(named, name), "__isabstractmethod__", False)]
