"""Passwords in addresses: shown and stored nowhere, and in no command line of a process that we start."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

MASK = "***"
HIDDEN = "CSA_HIDDEN_"
"""Begins the names of the environment variables by which such words reach other processes."""
_IN_AUTHORITY = re.compile(r"(?i)\b(?!sqlite\b|file\b)([a-z][a-z0-9+.-]*://)[^\s:/@'\"]*(:[^\s'\"]*)?@")
_IN_QUERY = re.compile(r"(?i)([?&;][\w.-]*(?:password|passwd|pwd|secret|token|key)[\w.-]*=)[^\s&;#'\"]+")


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
