"""The words of a command: read, with the values that they sweep; as a person may shorten them, ``0,0.1,...,0.9`` (in
decimal arithmetic) and ``smoke=true``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeVar

from hydra.core.override_parser.types import IntervalSweep, RangeSweep
from hydra.errors import HydraException

from csa.config.composition import CompositionError
from csa.config.faults import Fault, UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from hydra.core.override_parser.types import Override

    from csa.config.composition import Tree

T = TypeVar("T")
ELLIPSIS = "..."
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
    """The words of a command, and a fault for each that cannot be read."""
    return _each(words, lambda word: _word(tree, word))


def parsed(tree: Tree, words: Iterable[str]) -> tuple[list[Override], list[Fault]]:
    """As Hydra has them, whatever they mean, and a fault for each that cannot be parsed."""
    return _each(words, tree.parse)


def _each(words: Iterable[str], understood: Callable[[str], T]) -> tuple[list[T], list[Fault]]:
    """What the words are understood as, progressions written out."""
    found: list[T] = []
    faults: list[Fault] = []
    for word in words:
        try:
            found.append(understood(written_out(word)))
        except UserError as error:
            faults += error.faults
        except (CompositionError, ValueError) as error:
            faults.append(_unreadable(word, error))
    return found, faults


def _word(tree: Tree, text: str) -> Word:
    override = tree.parse(text)
    if (block := override.key_or_group.split(".")[0]) in ("cells", "search"):
        allowed = f"{block}: in a file, as in those of sweeps/; -m key=a,b varies a key"
        raise UserError(Fault(block, text.partition("=")[2], "is no word of a command", allowed))
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
    values = discrete_values(override)
    return list(dict.fromkeys([values[0], values[-1]])) if isinstance(sweep, RangeSweep) and values else values


def discrete_values(sweep: Override) -> list[str]:
    """All values of a sweep that can be enumerated, as they are written in words."""
    return [{"True": "true", "False": "false"}.get(value, value) for value in sweep.sweep_string_iterator()]


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


def written_out(word: str) -> str:
    """The word with its progression written out, if it has one. Raises UserError as ``progression`` does."""
    key, _, value = word.partition("=")
    return f"{key}={','.join(progression(key, value.split(',')))}" if has_ellipsis(value) else word


def has_ellipsis(value: str) -> bool:
    """Whether an ellipsis stands for values that are left out: not in text such as ``../data``."""
    return ELLIPSIS in (part.strip() for part in value.split(","))


def progression(key: str, values: Sequence[str]) -> list[str]:
    """The values of ``key`` with those that the ellipsis among them stands for: an arithmetic progression.

    Raises:
        UserError: the ellipsis does not stand between two values and the last, the steps are not equal, or they do
            not reach the end.
    """
    parts = [value.strip() for value in values]
    if parts.count(ELLIPSIS) > 1 or parts.index(ELLIPSIS) < 2 or parts.index(ELLIPSIS) != len(parts) - 2:
        raise _fault(key, values, "dots stand between the first two or more values and the last")
    wrong = [part for part in parts if part != ELLIPSIS and not NUMBER.fullmatch(part)]
    if wrong:
        raise _fault(key, values, f"{wrong[0]!r} is not a number")
    *start, last = [_number(key, values, part) for part in parts if part != ELLIPSIS]
    step = start[1] - start[0]
    if step == 0 or any(later - earlier != step for earlier, later in pairwise(start)):
        raise _fault(key, values, "is not a row of equal steps")
    if abs(last - start[0]) >= MOST * abs(step):
        raise _fault(key, values, f"is more than {MOST:,} values")
    steps, rest = divmod(last - start[0], step)
    if rest != 0 or steps < len(start):
        raise _fault(key, values, f"in steps of {_text(step)} from {_text(start[0])}, {_text(last)} is not reached")
    return [_text(start[0] + step * term) for term in range(int(steps) + 1)]


def _text(value: Decimal) -> str:
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
