"""The cells of a sweep: a union of small grids, and what the command line says of them.

    cells:
      - {method: [ce, csa], dataset: cifar100_lt, dataset.imbalance_ratio: [100, 50, 10], seed: [0, 1, 2]}
      - zip: {method: [csa, csa_mixup], protocol.lr: [0.2, 0.1]}     # the first with the first, ...
        delta: 0, 0.1, ..., 0.9
      - {blank: true, method: m2m, ...}                              # the paper gives no number

A grid is the product of its keys; a value is one or a list.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import Quote, QuotedString

from csa.config.faults import Fault, UserError
from csa.config.identity import canonical
from csa.config.words import ELLIPSIS, discrete_values, has_ellipsis, progression

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from hydra.core.override_parser.types import Override

ZIP, BLANK = "zip", "blank"
OF_THE_SWEEP = ("sweep", "plan", "smoke", "cells")
NAME = re.compile(r"[A-Za-z_][\w./-]*")
NO_NAMES = ("null", "true", "false", "nan", "inf")  # Hydra would read a value of another type


@dataclass(frozen=True)
class Cell:
    """Words that make one run. blank: the paper has no number for it; others: words that are no ``key=value``."""

    settings: tuple[tuple[str, str], ...]
    blank: bool = False
    others: tuple[str, ...] = ()

    @property
    def words(self) -> tuple[str, ...]:
        return (*(f"{key}={value}" for key, value in self.settings), *self.others)


def expand(grids: Sequence[Any]) -> list[Cell]:
    """Every cell of a file's ``cells:``; a single cell without words where there is none.

    Raises:
        UserError: with every fault of the grids.
    """
    cells: list[Cell] = []
    faults: list[Fault] = []
    for number, grid in enumerate(grids):
        try:
            cells += _grid(f"cells[{number}]", grid)
        except UserError as error:
            faults += error.faults
    if faults:
        raise UserError(*faults)
    return cells if grids else [Cell(())]


def apply(cells: Sequence[Cell], overrides: Iterable[Override]) -> list[Cell]:
    """The cells under the overrides of the command line.

    Values that the sweep has restrict it to them; with a value it has not, and in cells that do
    not have the key, the override's values take the place of the cell's.

    Raises:
        UserError: an override sweeps over an interval, which only a search can, or varies the sweep itself.
    """
    for override in overrides:
        if override.is_hydra_override():
            continue
        if is_of_sweep(override.key_or_group):
            if override.is_sweep_override():
                raise UserError(Fault(override.key_or_group, _typed(override), "is one for the whole sweep"))
            continue
        if override.is_delete() or override.package is not None:
            assert override.input_line is not None
            cells = [Cell(cell.settings, cell.blank, (*cell.others, override.input_line)) for cell in cells]
            continue
        cells = _apply(cells, override.get_key_element(), _values(override))
    return list(dict.fromkeys(cells))


def swept_keys(cells: Sequence[Cell]) -> list[str]:
    """Keys whose value is not the same in all cells, in order of appearance."""
    keys = dict.fromkeys(key for cell in cells for key, _ in cell.settings)
    return [key for key in keys if len({dict(cell.settings).get(key) for cell in cells}) > 1]


def is_of_sweep(key: str) -> bool:
    """Whether a key says how cells are run, not what a run is."""
    return key.split(".", maxsplit=1)[0] in OF_THE_SWEEP


# --- grids ----------------------------------------------------------------------------------


def _grid(at: str, grid: Any) -> list[Cell]:
    if not isinstance(grid, dict) or not grid:
        raise UserError(Fault(at, grid, "is not a grid", "a mapping of keys to values"))
    axes = [
        [[(str(key), value)] for value in _listed(f"{at}.{key}", values)]
        for key, values in grid.items()
        if key not in (ZIP, BLANK)
    ]
    if ZIP in grid:
        axes.append(_zipped(f"{at}.{ZIP}", grid[ZIP]))
    blank = bool(grid.get(BLANK))
    return [Cell(tuple(itertools.chain(*row)), blank) for row in itertools.product(*axes)]


def _zipped(at: str, group: Any) -> list[list[tuple[str, str]]]:
    """The first values together, then the second, ..."""
    if not isinstance(group, dict) or not group:
        raise UserError(Fault(at, group, "is not a group of keys", "a mapping of keys to lists of one length"))
    columns = {str(key): _listed(f"{at}.{key}", values) for key, values in group.items()}
    lengths = {key: len(values) for key, values in columns.items()}
    if len(set(lengths.values())) > 1:
        counted = ", ".join(f"{key} has {length}" for key, length in lengths.items())
        raise UserError(Fault(at, None, f"lists of different lengths: {counted}", "lists of one length"))
    return [
        [(key, values[position]) for key, values in columns.items()] for position in range(next(iter(lengths.values())))
    ]


def _listed(at: str, values: Any) -> list[str]:
    if isinstance(values, str) and has_ellipsis(values):
        return progression(at, values.split(","))
    if isinstance(values, list) and ELLIPSIS in values:
        return progression(at, [str(value) for value in values])
    if isinstance(values, list) and not values:
        raise UserError(Fault(at, "[]", "has no value", "one or more values"))
    return [quoted(value) for value in (values if isinstance(values, list) else [values])]


def quoted(value: Any) -> str:
    """A YAML value as Hydra reads it on the command line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(quoted, value))}]"
    if isinstance(value, str) and (not NAME.fullmatch(value) or value.lower() in NO_NAMES):
        return QuotedString(value, Quote.single).with_quotes()
    return str(value)


# --- words ----------------------------------------------------------------------------------


def _apply(cells: Sequence[Cell], key: str, values: list[str]) -> list[Cell]:
    known = {_canonical(value) for cell in cells for name, value in cell.settings if name == key}
    wanted = [_canonical(value) for value in values]
    if not known.issuperset(wanted):
        return [one for cell in cells for one in _with(cell, key, values)]
    applied: list[Cell] = []
    for cell in cells:
        own = dict(cell.settings).get(key)
        if own is None:
            applied += _with(cell, key, values)
        elif _canonical(own) in wanted:
            applied.append(cell)
    return applied


def _canonical(value: str) -> str:
    """One spelling for equal numbers."""
    try:
        return str(canonical(float(value)))
    except ValueError:
        return value


def _with(cell: Cell, key: str, values: list[str]) -> list[Cell]:
    rest = tuple((name, value) for name, value in cell.settings if name != key)
    return [Cell((*rest, (key, value)), cell.blank, cell.others) for value in values]


def _values(override: Override) -> list[str]:
    """The values of a word, as they are written in cells."""
    if not override.is_sweep_override():
        value = override.get_value_element_as_str()
        return [value.lower() if isinstance(override.value(), bool) else value]
    if not override.is_discrete_sweep():
        allowed = "values, or a range; -cn search searches in intervals"
        raise UserError(Fault(override.key_or_group, _typed(override), "is an interval", allowed))
    return discrete_values(override)


def _typed(override: Override) -> str:
    return str(override.input_line).partition("=")[2]
