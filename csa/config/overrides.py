"""The words of one command: read, expanded where swept, composed; where Hydra stops at a fault, we go on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import IntervalSweep, RangeSweep
from hydra.errors import HydraException

from csa.config.composition import PUBLISHED, CompositionError, NotPublishedError
from csa.config.faults import Fault, UserError, nearest
from csa.config.schema import WIRING

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

    from csa.config.composition import Composed, Tree


@dataclass(frozen=True)
class Word:
    """A word of the command line and the values of it that are to be checked (one, unless it is swept)."""

    text: str
    swept: bool
    values: tuple[Override, ...]

    @property
    def key(self) -> str:
        return self.text.partition("=")[0]


@dataclass
class Settled:
    """What composes of some words. doubtful: groups whose option could not be made out."""

    composed: Composed
    faults: list[Fault] = field(default_factory=list)
    doubtful: set[str] = field(default_factory=set)


def read(tree: Tree, words: Iterable[str]) -> tuple[list[Word], list[Fault]]:
    """The words that can be parsed, and a fault for each that cannot."""
    read_words, faults = [], []
    for text in words:
        try:
            word = _read(tree, text)
            if (block := word.values[0].key_or_group.split(".")[0]) in ("cells", "search"):
                allowed = f"{block}: in a file, as in those of sweeps/; -m key=a,b varies a key"
                faults.append(Fault(block, word.text.partition("=")[2], "is no word of a command", allowed))
            else:
                read_words.append(word)
        except (CompositionError, ValueError) as error:
            faults.append(unreadable(text, error))
    return read_words, faults


def _read(tree: Tree, text: str) -> Word:
    override = tree.parse(text)
    if override.is_hydra_override() and override.is_sweep_override():
        raise ValueError("Hydra's own settings are the same for the whole sweep")
    if not override.is_sweep_override():
        return Word(text, swept=False, values=(override,))
    values = tuple(tree.parse(f"{override.get_key_element()}={value}") for value in _swept_values(override))
    if not values:
        raise ValueError("no value in it")
    return Word(text, swept=True, values=values)


def _swept_values(override: Override) -> list[str]:
    """The values of a sweep; of a range its two ends, since ranges are what they are checked against."""
    sweep: Any = override.value()
    if isinstance(sweep, IntervalSweep):
        return [str(sweep.start), str(sweep.end)]
    values = [{"True": "true", "False": "false"}.get(value, value) for value in override.sweep_string_iterator()]
    if isinstance(sweep, RangeSweep) and values:
        return list(dict.fromkeys([values[0], values[-1]]))
    return values


def unreadable(text: str, error: Exception) -> Fault:
    key, equals, value = text.partition("=")
    if not equals:
        return Fault(text, None, "is not a key=value word", "key=value, or ~key")
    return Fault(key, value, f"cannot be read{_reason(error)}", f"quote special characters: \"{key}='...'\"")


def _reason(error: Exception) -> str:
    """Hydra's reason stands between a line that repeats the word and one that points to a page."""
    cause = error.__cause__ or error
    lines = str(cause).splitlines() or [type(cause).__name__]
    reason = lines[-2] if isinstance(cause, HydraException) and len(lines) > 1 else lines[0]
    return "" if set(reason) <= set(" ^") else f" ({reason})"


# --- composing ------------------------------------------------------------------------------


def settle(tree: Tree, words: Sequence[Override]) -> Settled:
    """Compose; name the words at fault, leave them out (or take what was meant), and compose the others."""
    kept, faults, doubtful = _choices(tree, [word for word in words if not tree.sets_value(word)])
    kept, more = _published_spelt_out(tree, kept)
    faults += more
    try:
        composed = tree.compose(kept)
    except CompositionError:
        composed, more = _one_by_one(tree, kept)
        faults += more
    settled = Settled(composed, faults, doubtful)
    for word in words:
        if tree.sets_value(word):
            apply(settled, word)
    return settled


def apply(settled: Settled, word: Override) -> None:
    """Set one plain value, or note why it cannot be set."""
    try:
        settled.composed = settled.composed.with_value(word)
    except CompositionError as error:
        if not error.unknown_key:
            settled.faults.append(Fault(word.key_or_group, word.get_value_string(), str(error)))
        elif word.key_or_group.split(".")[0] not in settled.doubtful:
            settled.faults.append(_unknown_key(settled.composed, word))


def _choices(tree: Tree, words: Sequence[Override]) -> tuple[list[Override], list[Fault], set[str]]:
    """Words that choose an option there is; instead of a wrong option the nearest, so that the rest can be judged."""
    kept, faults, doubtful = [], [], set()
    for word in words:
        options = tree.options(word.key_or_group) if tree.chooses(word) else []
        value = word.value()
        if not options or value in options:
            kept.append(word)
            continue
        group, text = word.key_or_group, word.get_value_string()
        near = nearest(text, options)
        meant = f"glob({text})" if "*" in text else near
        faults.append(Fault(group, text, f"there is no such {group}", ", ".join(options), meant))
        if near and near != PUBLISHED:  # the user asked for no published recipe
            kept.append(tree.parse(f"{group}={near}"))
        else:
            doubtful.add(group)
    return kept, faults, doubtful


def _published_spelt_out(tree: Tree, words: Sequence[Override]) -> tuple[list[Override], list[Fault]]:
    """``protocol=published`` as what it stands for; where that cannot be made out it is left out."""
    try:
        return tree.published_spelt_out(words), []
    except NotPublishedError as error:
        names = ", ".join(name for name in tree.options("protocol") if name != PUBLISHED)
        allowed = f"the data set's own protocol (no word about it), or one by its name: {names}"
        faults = [Fault("protocol", PUBLISHED, str(error), allowed)]
    except CompositionError:
        faults = []  # told word by word
    return [word for word in words if word.key_or_group != "protocol"], faults


def _one_by_one(tree: Tree, words: Sequence[Override]) -> tuple[Composed, list[Fault]]:
    """Compose with ever more words; a word that Hydra refuses is a fault and left out."""
    kept: list[Override] = []
    faults: list[Fault] = []
    try:
        composed = tree.compose(kept)
    except CompositionError as error:
        raise UserError(_broken_primary(tree, error)) from None
    for word in words:
        try:
            composed = tree.compose([*kept, word])
            kept.append(word)
        except CompositionError as error:
            key, _, value = str(word.input_line).partition("=")
            faults.append(Fault(key, value or None, "unknown key" if error.unknown_key else str(error)))
    return composed, faults


def _broken_primary(tree: Tree, error: Exception) -> Fault:
    names = tree.options("")
    if tree.config_name in names:
        return Fault("--config-name", tree.config_name, str(error))
    return Fault(
        "--config-name", tree.config_name, "there is no such file", ", ".join(names), nearest(tree.config_name, names)
    )


def _unknown_key(composed: Composed, word: Override) -> Fault:
    """With the nearest key of its block (without such a block: of all), else one of that name elsewhere."""
    blocks = _blocks(composed.config, "")
    everywhere = [f"{block}.{name}".strip(".") for block, names in blocks.items() for name in names]
    key = word.key_or_group
    block, _, name = key.rpartition(".")
    siblings = blocks.get(block, [])
    near = nearest(name, siblings)
    if near:
        meant = f"{block}.{near}".strip(".")
    else:
        meant = "" if siblings else nearest(key, everywhere)
        meant = meant or next((other for other in everywhere if other.rpartition(".")[2] == name), "")
    allowed = ", ".join(name for name in siblings or blocks[""] if name not in WIRING)
    return Fault(key, word.get_value_string(), "unknown key", allowed, meant)


def _blocks(config: Any, at: str) -> dict[str, list[str]]:
    """The keys of each block by the block's dotted key."""
    names = {str(name): config._get_node(name) for name in config}
    blocks = {at: list(names)}
    for name, node in names.items():
        if hasattr(node, "keys") and not node._is_none() and not node._is_missing():
            blocks |= _blocks(node, f"{at}.{name}".strip("."))
    return blocks
