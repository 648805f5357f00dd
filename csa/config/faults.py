"""What a user got wrong, said once and clearly, and without the passwords in it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

MASK = "***"
HIDDEN = "CSA_HIDDEN_"
"""Begins the names of the environment variables by which such words reach other processes."""
_IN_AUTHORITY = re.compile(r"(?i)\b(?!sqlite\b|file\b)([a-z][a-z0-9+.-]*://)[^\s:/@'\"]*(:[^\s'\"]*)?@")
_IN_QUERY = re.compile(r"(?i)([?&;][\w.-]*(?:password|passwd|pwd|secret|token|key)[\w.-]*=)[^\s&;#'\"]+")


@dataclass(frozen=True)
class Fault:
    """One mistake: the key, the value given, what is wrong with it, what is allowed, the nearest name."""

    key: str
    value: Any
    problem: str
    allowed: str = ""
    nearest: str = ""

    def __str__(self) -> str:
        word = self.key if self.value is None else f"{self.key}={self.value}"
        text = f"{word}: {self.problem}"
        if self.nearest:
            text += f"; did you mean {self.nearest!r}?"
        if self.allowed:
            text += f" Allowed: {self.allowed}." if text.endswith("?") else f"; allowed: {self.allowed}"
        return without_passwords(printable(text))


class UserError(Exception):
    """Mistakes of the user, all of them at once, each told once; entries print them and exit with status 2."""

    def __init__(self, *faults: Fault) -> None:
        distinct = {str(fault): fault for fault in faults}
        super().__init__("\n".join(distinct))
        self.faults = tuple(distinct.values())


REMEDY = "start the run again with rerun=true, or read it with the csa version named in it"


class RecordError(UserError):
    """A record that cannot be used, because it is damaged or another version's: which file, and what is wrong in it."""

    def __init__(self, path: Path, problem: str, remedy: str = REMEDY) -> None:
        super().__init__(Fault("record", path, problem, remedy))


EXTRAS = {"mlflow": "mlflow", "pandas": "report", "matplotlib": "report"}
"""Packages that may be left out, and the extra that each belongs to."""


def missing_extra(error: Exception) -> Fault | None:
    """Where a package was imported that may be left out, and is: what to install."""
    package = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if package not in EXTRAS:
        return None
    return Fault(package, None, "is not installed", f"pip install 'csa[{EXTRAS[package]}]'")


def first_line(error: BaseException) -> str:
    """What an exception says first; of one that says nothing its kind."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def printable(text: str) -> str:
    """Text whose invisible characters, and bytes of a file's name that are no text, are escaped."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def listed(items: Sequence[object], most: int = 5) -> str:
    """``a, b, c and 4 more``."""
    text = ", ".join(map(str, items[:most]))
    return text if len(items) <= most else f"{text} and {len(items) - most} more"


def nearest(name: str, names: Iterable[str]) -> str:
    """The name that was probably meant, one of the same letters first, or an empty string."""
    squeezed = {_squeezed(known): known for known in names}
    word = _squeezed(name)
    swapped = [known for known in squeezed if sorted(known) == sorted(word)]
    close = swapped or get_close_matches(word, squeezed, n=1, cutoff=0.6)
    return squeezed[close[0]] if close else ""


def _squeezed(name: str) -> str:
    return name.replace("_", "").replace("-", "").lower()


# --- passwords ------------------------------------------------------------------------------
# In addresses: shown and stored nowhere, and in no command line of a process that we start.


def without_passwords(text: str) -> str:
    """The text with who logs in, and by what, left out of every address in it: ``http://***@host``."""
    if "=" not in text and "@" not in text:
        return text
    return _IN_QUERY.sub(rf"\1{MASK}", _IN_AUTHORITY.sub(rf"\1{MASK}@", text))


def hidden(words: Sequence[str]) -> list[str]:
    """The words of a command; an address with a password is put into the environment, and the word refers to it."""
    return [word if without_passwords(word) == word else _by_environment(word) for word in words]


def _by_environment(word: str) -> str:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        override = OverridesParser.create().parse_override(word)
    except HydraException:
        return word  # to be told by whoever reads the words
    if not isinstance(override.value(), str):
        return word
    name = f"{HIDDEN}{override.key_or_group.upper().replace('.', '_')}"
    os.environ[name] = str(override.value())
    return f"{word.partition('=')[0]}=${{oc.env:{name}}}"
