"""Words as a person may shorten them: ``0,0.1,...,0.9`` (in decimal arithmetic) and ``smoke=true``."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from itertools import pairwise
from typing import TYPE_CHECKING

from csa.config.faults import Fault, UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

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


def spelt(words: Sequence[str]) -> list[str]:
    """The words of a command as they are meant: dots filled in, ``smoke=true`` spelt out."""
    words = fill_words(words)
    return [*words, *(SMOKE_WORDS if "smoke=true" in map(str.lower, words) else ())]


def fill_words(words: Sequence[str]) -> list[str]:
    """Every ``key=value`` word with its dots filled in; other words as they are.

    Raises:
        UserError: with a fault for each word whose values make no row.
    """
    filled: list[str] = []
    faults: list[Fault] = []
    for word in words:
        key, equals, value = word.partition("=")
        try:
            filled.append(f"{key}={','.join(fill(key, value.split(',')))}" if equals and has_dots(value) else word)
        except UserError as error:
            faults += error.faults
    if faults:
        raise UserError(*faults)
    return filled


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
