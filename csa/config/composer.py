"""From words to checked values: what many share is composed once; where Hydra stops at a fault, we go on.

Values are checked against the typed schema, all faults at once, and become frozen dataclasses.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError

from csa.config.blocks import WIRING, block_faults, build_block, build_fields, flat, join
from csa.config.composition import PUBLISHED, CompositionError, NotPublishedError, composition_errors
from csa.config.faults import Fault, UserError, first_line, nearest
from csa.config.rules import broken_rules
from csa.config.schema import Config

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

    from csa.config.composition import Composed, Tree

REFERENCE = re.compile(r"\$\{([\w.]+)\}")


@dataclass(frozen=True)
class Checked:
    """Plain values of one run, and every fault of them. doubtful: groups whose option could not be made out."""

    values: dict[str, Any]
    faults: list[Fault]
    doubtful: set[str]

    def sound(self, *keys: str) -> list[Any]:
        """The values of keys of the top level, groups of keys as dataclasses; none where one of them is faulty."""
        if not self._faulty.isdisjoint(keys):
            return []
        built = build_fields(Config, {key: self.values[key] for key in keys})
        return [built[key] for key in keys]

    @cached_property
    def _faulty(self) -> set[str]:
        return {fault.key.split(".")[0] for fault in self.faults} | self.doubtful

    @cached_property
    def config(self) -> Config:
        """Raises UserError with every fault."""
        if self.faults:
            raise UserError(*self.faults)
        return build_block(Config, self.values)  # type: ignore[no-any-return]


class Composer:
    """Makes of the overrides of one run, over one tree, its checked values.

    Words that choose options are composed, once for each combination; plain values are set on what these give, for
    one run after the other. That equals a full composition, and is twenty times faster.
    """

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self._bases: dict[tuple[str, ...], _Base] = {}

    def absent_option(self, overrides: Sequence[Override]) -> str:
        """The override that asks for an option which this version does not have (yet); nothing where all are there."""
        chosen = [(override.key_or_group, override.value()) for override in overrides if self.tree.chooses(override)]
        return next((f"{group}={value}" for group, value in chosen if value not in self.tree.options(group)), "")

    def checked(self, overrides: Sequence[Override]) -> Checked:
        base, faults = self._set(overrides)
        values, found = resolve_and_check(base.config, base.doubtful)
        return Checked(values, faults + found, base.doubtful)

    def composed(self, overrides: Sequence[Override]) -> Composed:
        """What the overrides compose to, those at fault left out or replaced by what was meant."""
        base, _ = self._set(overrides)
        plain = [str(override.input_line) for override in overrides if self.tree.sets_value(override)]
        return replace(base.composed, words=(*base.composed.words, *plain), config=base.config.copy())

    def _set(self, overrides: Sequence[Override]) -> tuple[_Base, list[Fault]]:
        chosen = [override for override in overrides if not self.tree.sets_value(override)]
        key = tuple(str(override.input_line) for override in chosen)
        if key not in self._bases:
            self._bases[key] = _base(self.tree, chosen)
        base = self._bases[key]
        return base, base.faults + base.set([override for override in overrides if self.tree.sets_value(override)])


class _Base:
    """What overrides that choose options compose to; values are set on its ``config``, in force until others are."""

    def __init__(self, composed: Composed, faults: list[Fault], doubtful: set[str]) -> None:
        self.composed, self.faults, self.doubtful = composed, faults, doubtful
        self.config = composed.config
        self._raw: Any = OmegaConf.to_container(self.config, resolve=False)
        self._changed: list[str] = []

    def set(self, overrides: Sequence[Override]) -> list[Fault]:
        """A fault for each that cannot be set."""
        self._restore()
        faults = []
        for override in overrides:
            self._changed.append(override.key_or_group)
            try:
                with composition_errors():
                    OmegaConf.update(self.config, override.key_or_group, override.value(), merge=True)
            except CompositionError as error:
                if not error.unknown_key:
                    faults.append(Fault(override.key_or_group, override.get_value_string(), str(error)))
                elif override.key_or_group.split(".")[0] not in self.doubtful:
                    faults.append(_unknown_key(self._raw, override))
        return faults

    def _restore(self) -> None:
        try:
            for key in self._changed:
                OmegaConf.update(self.config, key, self._as_composed(key), merge=True)
        except Exception:  # a place in a list, a key that is not there
            self.config = OmegaConf.create(self._raw)
            OmegaConf.set_struct(self.config, value=True)
        self._changed.clear()

    def _as_composed(self, key: str) -> Any:
        value = self._raw
        for name in key.split("."):
            value = value[name]
        return value


# --- composing ------------------------------------------------------------------------------


def _base(tree: Tree, overrides: Sequence[Override]) -> _Base:
    """Compose; name the overrides at fault, leave them out (or take what was meant), and compose the others."""
    kept, faults, doubtful = _choices(tree, overrides)
    kept, more = _published_spelt_out(tree, kept)
    faults += more
    try:
        composed = tree.compose(kept)
    except CompositionError:
        composed, more = _one_by_one(tree, kept)
        faults += more
    return _Base(composed, faults, doubtful)


def _choices(tree: Tree, overrides: Sequence[Override]) -> tuple[list[Override], list[Fault], set[str]]:
    """Words that choose an option there is; instead of a wrong option the nearest, so that the rest can be judged."""
    kept, faults, doubtful = [], [], set()
    for override in overrides:
        options = tree.options(override.key_or_group) if tree.chooses(override) else []
        value = override.value()
        if not options or value in options:
            kept.append(override)
            continue
        group, text = override.key_or_group, override.get_value_string()
        near = nearest(text, options)
        meant = f"glob({text})" if "*" in text else near
        faults.append(Fault(group, text, f"there is no such {group}", ", ".join(options), meant))
        if near and near != PUBLISHED:  # the user asked for no published recipe
            kept.append(tree.parse(f"{override.get_key_element()}={near}"))
        else:
            doubtful.add(group)
    return kept, faults, doubtful


def _published_spelt_out(tree: Tree, overrides: Sequence[Override]) -> tuple[list[Override], list[Fault]]:
    """``protocol=published`` as what it stands for; where that cannot be made out it is left out."""
    try:
        return tree.published_spelt_out(overrides), []
    except NotPublishedError as error:
        names = ", ".join(name for name in tree.options("protocol") if name != PUBLISHED)
        allowed = f"the data set's own protocol (no word about it), or one by its name: {names}"
        faults = [Fault("protocol", PUBLISHED, str(error), allowed)]
    except CompositionError:
        faults = []  # told word by word
    return [override for override in overrides if override.key_or_group != "protocol"], faults


def _one_by_one(tree: Tree, overrides: Sequence[Override]) -> tuple[Composed, list[Fault]]:
    """Compose with ever more overrides; one that Hydra refuses is a fault and left out."""
    kept: list[Override] = []
    faults: list[Fault] = []
    try:
        composed = tree.compose(kept)
    except CompositionError as error:
        raise UserError(_broken_primary(tree, error)) from None
    for override in overrides:
        try:
            composed = tree.compose([*kept, override])
            kept.append(override)
        except CompositionError as error:
            key, _, value = str(override.input_line).partition("=")
            faults.append(Fault(key, value or None, "unknown key" if error.unknown_key else str(error)))
    return composed, faults


def _broken_primary(tree: Tree, error: Exception) -> Fault:
    names = tree.options("")
    if tree.config_name in names:
        return Fault("--config-name", tree.config_name, str(error))
    return Fault(
        "--config-name", tree.config_name, "there is no such file", ", ".join(names), nearest(tree.config_name, names)
    )


def _unknown_key(values: dict[str, Any], override: Override) -> Fault:
    """With the nearest key of its block (without such a block: of all), else one of that name elsewhere."""
    blocks = _blocks(values, "")
    everywhere = [join(block, name) for block, names in blocks.items() for name in names]
    key = override.key_or_group
    block, _, name = key.rpartition(".")
    siblings = blocks.get(block, [])
    near = nearest(name, siblings)
    if near:
        meant = join(block, near)
    else:
        meant = "" if siblings else nearest(key, everywhere)
        meant = meant or next((other for other in everywhere if other.rpartition(".")[2] == name), "")
    allowed = ", ".join(name for name in siblings or blocks[""] if name not in WIRING)
    return Fault(key, override.get_value_string(), "unknown key", allowed, meant)


def _blocks(values: dict[str, Any], at: str) -> dict[str, list[str]]:
    """The keys of each block by the block's dotted key."""
    blocks = {at: [str(name) for name in values]}
    for name, value in values.items():
        if isinstance(value, dict):
            blocks |= _blocks(value, join(at, name))
    return blocks


# --- against the schema ---------------------------------------------------------------------


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
        raw = flat(OmegaConf.to_container(config, resolve=False))
        # A value that is copied from another key is told once, at the key that the user can set.
        sources = _sources(raw)
        found = [fault for fault in found if faulty.isdisjoint(_chain(fault.key, sources))]
        found = [_without_secrets(fault, raw.get(fault.key)) for fault in found]
    known = {key: value for key, value in flat(values).items() if key.split(".")[0] not in doubtful}
    return values, found + broken_rules(known, faulty)


def build(config: DictConfig | dict[str, Any]) -> Config:
    """The frozen configuration of one run. Raises UserError with every fault."""
    return Checked(*resolve_and_check(config), doubtful=set()).config


def _without_secrets(fault: Fault, raw: Any) -> Fault:
    """What the environment holds is not printed: told is the word that refers to it."""
    return replace(fault, value=raw) if isinstance(raw, str) and "${oc.env:" in raw else fault


def _sources(raw: Mapping[str, Any]) -> dict[str, str]:
    """Keys whose value is another key's: ``method.delta`` is ``delta``."""
    matches = {key: REFERENCE.fullmatch(value) for key, value in raw.items() if isinstance(value, str)}
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
            faults.append(Fault(path, value, first_line(error)))
    return values, faults
