"""Names of classes: which are the same, and how several of one name are told apart. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING
from unicodedata import category, normalize

from csa.config.faults import Fault

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

CONTROLS = ("Cc", "Cs", "Zl", "Zp")
"""Unicode's categories of control characters, of bytes that are no text, and of line ends."""


def has_controls(name: str) -> bool:
    """Whether a name would be torn, or would steer a terminal, wherever it is shown."""
    return not name.isprintable() and any(category(letter) in CONTROLS for letter in name)


def same_form(name: str) -> str:
    """Equal for two names that look the same, whichever Unicode form they are in (a Mac's files have NFD)."""
    return normalize("NFC", name)


def same_names(names: Iterable[str], known: Iterable[str]) -> dict[str, str]:
    """Of each name the known one that it is, in this or another Unicode form; names that are none are left out.

    Two names that differ in their form alone are never taken for one another.
    """
    names, known = set(names), set(known)
    found = {name: name for name in names & known}
    ours, theirs = by_form(names), by_form(known)
    for form, members in ours.items():
        if len(members) == len(theirs.get(form, ())) == 1:
            found[members[0]] = theirs[form][0]
    return found


def by_form(names: Iterable[str]) -> dict[str, list[str]]:
    """Names that look the same, by their common form."""
    groups: dict[str, list[str]] = {}
    for name in sorted(names):
        groups.setdefault(same_form(name), []).append(name)
    return groups


def distinct_names(names: Sequence[str]) -> list[str]:
    """Names that differ: the second of one name is ``name (2)``, as ImageNet has two cranes."""
    taken = set(names)
    found: dict[str, None] = {}
    for name in names:
        number, own = 1, name
        while own in found or (number > 1 and own in taken):
            number += 1
            own = f"{name} ({number})"
        found[own] = None
    return list(found)


def name_faults(dataset: str, names: Sequence[str]) -> list[Fault]:
    """Names that no table, file or picture can show."""
    bad = [k for k, name in enumerate(names) if has_controls(name)]
    return [
        Fault("dataset", dataset, f"class {k} is called {names[k]!a}", "names without control characters")
        for k in bad[:3]
    ]
