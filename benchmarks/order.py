"""What a command asks to be measured. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from csa.config.faults import Fault, UserError, nearest
from csa.config.host import cores, output_faults
from csa.request import configure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from csa.config.schema import Config

NEEDS: dict[str, tuple[str, ...]] = {
    "machine": (),
    "bare": ("machine",),
    "product": ("bare",),
    "reference": ("product",),
    "startup": (),
    "gpu": (),
}
"""Every group of rows in the order of measuring, and the groups that it is compared with."""

WORDS: dict[str, tuple[str, ...]] = {"rows": (), "repeats": (), "steps": (), "threads": (), "to": ()}
REPEATS = 5

# An untrained network in the middle of the schedule stays finite at a low rate; the work of a step is the same.
# The first epoch warms up, those after it are measured (benchmarks.product).
COMMON = ("dataset=cifar100_lt", "tracking=none", "protocol.epochs=2", "protocol.lr=0.01")
# Every image counts as fitted, so that the bank is full from the first step on and both branches train.
ACTIVE = ("method=csa", "delta=0", "method.start_epoch=0")
VARIANTS: dict[str, tuple[str, ...]] = {
    "ce": ("method=ce",),
    "csa": ACTIVE,
    "csa_reused": (*ACTIVE, "method.mask_pass=train"),
}
SETTLED = ("dataset", "method", "backbone", "delta", "sampler", "tracking", "protocol.epochs", "protocol.lr")


@dataclass(frozen=True)
class Order:
    """words: as given. configs: the product's, of each variant. steps: of an epoch; None: whole epochs."""

    words: tuple[str, ...]
    configs: dict[str, Config]
    rows: tuple[str, ...]
    repeats: int
    steps: int | None
    to: Path | None


def read_order(words: Sequence[str]) -> Order:
    """Raises UserError with every mistake in the words."""
    faults = _settled_faults(words)
    others = [word for word in words if _key(word) not in {fault.key for fault in faults}]
    own: dict[str, str] = {}
    configs: dict[str, Config] = {}
    try:
        for variant, more in VARIANTS.items():
            configs[variant], own = configure([*COMMON, *more, *_for_csa(others)], extra=WORDS)
    except UserError as error:
        faults += error.faults
        own = dict.fromkeys(WORDS, "") | dict(_split(word) for word in words if _key(word) in WORDS)
    numbers = {key: _number(key, own[key], faults) for key in ("repeats", "steps", "threads")}
    rows = _rows(own["rows"], faults)
    to = _target(own["to"], faults)
    if faults:
        raise UserError(*faults)
    return Order(tuple(words), configs, rows, numbers["repeats"] or REPEATS, numbers["steps"], to)


def _for_csa(words: Sequence[str]) -> list[str]:
    """``threads`` is a word of its own, because it is asked for so often; csa knows it too."""
    threads = [value for key, value in map(_split, words) if key == "threads" and value.isdecimal() and int(value)]
    return [f"runtime.threads={cores()}", *words, *(f"runtime.threads={value}" for value in threads)]


def _settled_faults(words: Sequence[str]) -> list[Fault]:
    return [
        Fault(key, value, "is settled by the rows", f"rows={','.join(NEEDS)}")
        for key, value in map(_split, words)
        if key in SETTLED or key.startswith(("method.", "tracking.", "backbone."))
    ]


def _number(key: str, value: str, faults: list[Fault]) -> int | None:
    if not value:
        return None
    if value.isdecimal() and int(value) > 0:
        return int(value)
    faults.append(Fault(key, value, "is not a number of them", "an integer, at least 1"))
    return None


def _rows(value: str, faults: list[Fault]) -> tuple[str, ...]:
    """The groups named, and those that they are compared with; all of them where none is."""
    names = value.split(",") if value else list(NEEDS)
    unknown = [name for name in names if name not in NEEDS]
    faults += [
        Fault("rows", name, "there are no such rows", ", ".join(NEEDS), nearest(name, NEEDS)) for name in unknown
    ]
    wanted = {needed for name in names if name in NEEDS for needed in _with_needs(name)}
    return tuple(name for name in NEEDS if name in wanted)


def _with_needs(name: str) -> set[str]:
    return {name}.union(*map(_with_needs, NEEDS[name]))


def _target(value: str, faults: list[Fault]) -> Path | None:
    if not value:
        return None
    path = Path(value).expanduser()
    if path.suffix != ".json":
        faults.append(Fault("to", value, "is no file of that kind", "a file name that ends in .json"))
    else:
        faults += [Fault("to", value, fault.problem, fault.allowed) for fault in output_faults(str(path.parent))]
    return path


def _key(word: str) -> str:
    return word.partition("=")[0]


def _split(word: str) -> tuple[str, str]:
    key, _, value = word.partition("=")
    return key, value
