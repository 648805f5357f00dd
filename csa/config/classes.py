"""Classes that a configuration names by their dotted path: of csa, or of any other package that is installed."""

from __future__ import annotations

from inspect import getattr_static
from pkgutil import resolve_name
from typing import TypeVar

from csa.config.faults import Fault, UserError

T = TypeVar("T")


def named_class(key: str, path: str, base: type[T]) -> type[T]:
    """The class at ``path``, derived from ``base``; it is imported, not called.

    Raises:
        UserError: there is no such class; ``key`` is the configuration key to blame.
    """
    allowed = f"package.module.Class, derived from {base.__name__}"
    try:
        named = resolve_name(path)
    except (Exception, SystemExit) as error:  # whatever a module raises while it is imported
        reason = str(error) if isinstance(error, ImportError) else f"{type(error).__name__}: {error}"
        raise UserError(Fault(key, path, f"cannot be imported ({reason})", allowed)) from error
    if not (isinstance(named, type) and issubclass(named, base)):
        raise UserError(Fault(key, path, "is no such class", allowed))
    if open_ := [name for name in dir(named) if getattr(getattr_static(named, name), "__isabstractmethod__", False)]:
        raise UserError(Fault(key, path, f"is a base class, without {', '.join(open_)}", allowed))
    return named
