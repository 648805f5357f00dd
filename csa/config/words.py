"""The words of a command: read, with the values that they sweep; as a person may shorten them, ``0,0.1,...,0.9`` (in
decimal arithmetic) and ``smoke=true``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import IntervalSweep, RangeSweep
from hydra.errors import HydraException

from csa.config.composition import CompositionError
from csa.config.faults import Fault, UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from hydra.core.override_parser.types import Override

    from csa.config.composition import Tree

DOTS = "..."
MOST = 10_000
NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
ALLOWED = "two or more values in equal steps, dots, the last value: 0,0.1,...,0.9"
SMOKE = "smoke"
SMOKE_WORDS = (
    f"variant={SMOKE}",
    "dataset.source=csa.data.sources.tiny.TinySource",
    "dataset.profile=balanced",
    "dataset.max_per_class=2",
    "dataset.cap=false",
    "protocol.epochs=2",
    "protocol.batch_size=100",
    "protocol.stage_two.epochs=1",
    "protocol.stage_two.scales_epochs=1",
)
"""Images of the data set's real shape and number of classes, so that backbones and heads are the real ones."""


@dataclass(frozen=True)
class Word:
    """A word of the command line and the values of it that are to be checked (one, unless it is swept)."""

    text: str
    swept: bool
    values: tuple[Override, ...]

    @property
    def key(self) -> str:
        return self.text.partition("=")[0]


def read(tree: Tree, words: Iterable[str]) -> tuple[list[Word], list[Fault]]:
    """The words of a command that can be read, dots filled in, and a fault for each that cannot."""
    read_words = []
    words, faults = filled(words)
    for text in words:
        try:
            word = _read(tree, text)
            if (block := word.values[0].key_or_group.split(".")[0]) in ("cells", "search"):
                allowed = f"{block}: in a file, as in those of sweeps/; -m key=a,b varies a key"
                faults.append(Fault(block, word.text.partition("=")[2], "is no word of a command", allowed))
            else:
                read_words.append(word)
        except (CompositionError, ValueError) as error:
            faults.append(_unreadable(text, error))
    return read_words, faults


def parsed(tree: Tree, words: Iterable[str]) -> tuple[list[Override], list[Fault]]:
    """The words that can be parsed, dots filled in, and a fault for each that cannot."""
    overrides = []
    words, faults = filled(words)
    for text in words:
        try:
            overrides.append(tree.parse(text))
        except CompositionError as error:
            faults.append(_unreadable(text, error))
    return overrides, faults


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


def _unreadable(text: str, error: Exception) -> Fault:
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


# --- shortened ------------------------------------------------------------------------------


def with_smoke(words: Sequence[str]) -> list[str]:
    """The words of a run with ``smoke=true`` spelt out."""
    return [*words, *(SMOKE_WORDS if f"{SMOKE}=true" in map(str.lower, words) else ())]


def filled(words: Iterable[str]) -> tuple[list[str], list[Fault]]:
    """Every ``key=value`` word with its dots filled in, others as they are; a fault for each whose dots make no row."""
    whole: list[str] = []
    faults: list[Fault] = []
    for word in words:
        key, equals, value = word.partition("=")
        try:
            whole.append(f"{key}={','.join(fill(key, value.split(',')))}" if equals and has_dots(value) else word)
        except UserError as error:
            faults += error.faults
    return whole, faults


def has_dots(value: str) -> bool:
    """Whether dots stand for values that are left out: not in text such as ``../data``."""
    return DOTS in (part.strip() for part in value.split(","))


def fill(key: str, values: Sequence[str]) -> list[str]:
    """The values of ``key`` with those that the dots stand for.

    Raises:
        UserError: the dots do not stand between two values and the last, or the row is not
            arithmetic, or it does not reach its end.
    """
    parts = [value.strip() for value in values]
    if parts.count(DOTS) > 1 or parts.index(DOTS) < 2 or parts.index(DOTS) != len(parts) - 2:
        raise _fault(key, values, "dots stand between the first two or more values and the last")
    wrong = [part for part in parts if part != DOTS and not NUMBER.fullmatch(part)]
    if wrong:
        raise _fault(key, values, f"{wrong[0]!r} is not a number")
    *start, last = [_number(key, values, part) for part in parts if part != DOTS]
    step = start[1] - start[0]
    if step == 0 or any(later - earlier != step for earlier, later in pairwise(start)):
        raise _fault(key, values, "is not a row of equal steps")
    if abs(last - start[0]) >= MOST * abs(step):
        raise _fault(key, values, f"is more than {MOST:,} values")
    steps, rest = divmod(last - start[0], step)
    if rest != 0 or steps < len(start):
        raise _fault(key, values, f"in steps of {text(step)} from {text(start[0])}, {text(last)} is not reached")
    return [text(start[0] + step * place) for place in range(int(steps) + 1)]


def text(value: Decimal) -> str:
    """As a person would write it: 0.3, 10, never 1E+1."""
    plain = format(value.normalize(), "f")
    return "0" if plain == "-0" else plain


def _number(key: str, values: Sequence[str], part: str) -> Decimal:
    try:
        return Decimal(part)
    except InvalidOperation:
        raise _fault(key, values, f"{part!r} is not a number") from None


def _fault(key: str, values: Sequence[str], problem: str) -> UserError:
    return UserError(Fault(key, ",".join(values), problem, ALLOWED))
