"""Tables 1 to 5 in the paper's layout, every cell with what was measured for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from csa.reporting.cells import Cell, Measured, View, measure
from csa.reporting.names import place_name, printed
from csa.reporting.published import OWN_RECIPE, Place

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from csa.reporting.fitting import Fitting
    from csa.reporting.published import Published
    from csa.reporting.runs import Run

TITLES = {
    "1": "Test accuracy (%) of cross-entropy on uniform batches (CE), classifier re-training (cRT) and class-balanced "
    "re-sampling (CB-RS): all, many-, medium- and few-shot classes",
    "2": "Test accuracy (%) on CIFAR-100-LT and CIFAR-10-LT at imbalance ratios 100, 50 and 10",
    "3": "Test accuracy (%) on ImageNet-LT",
    "4": "Test accuracy (%) of CSA with and without its context bank Q",
    "5": "Test accuracy (%) of CSA under several thresholds δ",
}
OF_ONE_METHOD = ("4", "5")  # vary a method's settings; other methods have no row in them
TURNED = ("5",)


@dataclass(frozen=True)
class Column:
    """group: the heading above; key: what its cells share; metric: which accuracy."""

    group: str
    heading: str
    metric: str
    key: tuple[object, ...]


@dataclass(frozen=True)
class Row:
    """in_paper: whether the paper's table has it."""

    label: str
    cells: tuple[Cell | None, ...]
    in_paper: bool = True


@dataclass
class Table:
    """notes: what a reader must know of single cells; by_head: whether its rows are heads (``csa.reporting.heads``)."""

    number: str
    title: str
    columns: tuple[Column, ...]
    rows: list[Row]
    view: View
    notes: list[str] = field(default_factory=list)
    by_head: bool = False

    @property
    def name(self) -> str:
        """Of its files: ``table4``, ``heads4``."""
        return f"{'heads' if self.by_head else 'table'}{self.number}"

    @property
    def heading(self) -> str:
        return f"Table {self.number} by head" if self.by_head else f"Table {self.number}"

    @property
    def turned(self) -> bool:
        """Whether what varies stands in the columns."""
        return self.number in TURNED

    def cells(self) -> Iterator[tuple[Row, Column, Cell]]:
        for row in self.rows:
            for column, cell in zip(self.columns, row.cells, strict=True):
                if cell is not None:
                    yield row, column, cell

    def measured(self) -> Iterator[Measured]:
        """Of every cell, whole runs first."""
        for _, _, cell in self.cells():
            yield from ([cell.measured] if cell.measured else [])
            yield from cell.others


def build_tables(
    published: Mapping[str, Sequence[Published]],
    runs: Sequence[Run],
    fitting: Fitting,
    view: View,
    *,
    reduced: bool = False,
) -> list[Table]:
    """One table of each of the paper's; reduced: whether shortened runs are shown too, marked."""
    chooser = Chooser(runs, fitting, view, reduced)
    return [_table(number, cells, chooser) for number, cells in published.items()]


# --- the runs of a cell ---------------------------------------------------------------------


class Chooser:
    """Finds the runs of a place. Runs on different training subsets are never averaged: the larger group counts."""

    def __init__(self, runs: Sequence[Run], fitting: Fitting, view: View, reduced: bool) -> None:
        self.view, self._fitting, self._reduced = view, fitting, reduced
        self._by_name: dict[tuple[str, str], list[Run]] = {}
        for run in runs:
            self._by_name.setdefault((run.dataset, run.method), []).append(run)
        self._found: dict[Place, dict[str, list[Run]]] = {}
        self.notes: dict[Place, str] = {}

    def methods(self, dataset: str) -> list[str]:
        return sorted(method for name, method in self._by_name if name == dataset)

    def cell(self, place: Place, metric: str, published: Published | None) -> Cell:
        kinds = self.kinds(place)
        whole = measure(kinds.get("", []), metric, self.view, published)
        others = [
            measure(runs, metric, self.view, published, kind) for kind, runs in sorted(kinds.items()) if kind != ""
        ]
        return Cell(place, metric, published, whole, tuple(other for other in others if other))

    def kinds(self, place: Place) -> dict[str, list[Run]]:
        """The runs of a place by how they are reduced (empty: not at all), each list by seed."""
        if place not in self._found:
            found: dict[str, list[Run]] = {}
            for run in self._by_name.get((place.dataset, place.method), []):
                fit = self._fitting.fit(place, run)
                if fit is not None and (self._reduced or not fit.reduced):
                    found.setdefault(fit.reduced, []).append(run)
            self._found[place] = {kind: self._one_subset(place, runs) for kind, runs in found.items()}
        return self._found[place]

    def _one_subset(self, place: Place, runs: Sequence[Run]) -> list[Run]:
        splits: dict[str, list[Run]] = {}
        for run in runs:
            splits.setdefault(run.split, []).append(run)
        taken = min(splits, key=lambda split: (-len(splits[split]), split))
        left = {split: len(group) for split, group in splits.items() if split != taken}
        if left:
            told = ", ".join(f"{number} on {split[:12]}" for split, number in sorted(left.items()))
            self.notes[place] = (
                f"{place_name(place)}: shown are the runs on training subset {taken[:12]}; not shown: {told}"
            )
        return sorted(splits[taken], key=lambda run: (run.seed, run.fingerprint))


# --- layout ---------------------------------------------------------------------------------


def _table(number: str, published: Sequence[Published], chooser: Chooser) -> Table:
    known = {(cell.row, _key(cell.place), cell.metric): cell for cell in published}
    labels = list(dict.fromkeys(cell.row for cell in published))
    columns = _columns(published)
    rows = []
    for label in labels:
        first = next(cell.place for cell in published if cell.row == label)
        cells = [
            chooser.cell(
                _place(first.method, column, first.words), column.metric, known.get((label, column.key, column.metric))
            )
            for column in columns
        ]
        rows.append(Row(label, tuple(cells)))
        rows += _own_recipe(label, first, columns, chooser)
    if number not in OF_ONE_METHOD:
        rows += _other_methods(published, columns, chooser)
    table = Table(number, TITLES[number], columns, rows, chooser.view)
    shown = {cell.place for _, _, cell in table.cells()}
    table.notes = [note for place, note in chooser.notes.items() if place in shown]
    return _turned(table) if number in TURNED else table


def _own_recipe(label: str, place: Place, columns: Sequence[Column], chooser: Chooser) -> Iterator[Row]:
    """The same method under its own paper's recipe, where such runs are; no published value is of that recipe."""
    words = (*place.words, OWN_RECIPE)
    cells = tuple(chooser.cell(_place(place.method, column, words), column.metric, None) for column in columns)
    names = dict.fromkeys(run.config["protocol"]["name"] for cell in cells for run in cell.runs())
    if names:
        yield Row(f"{label}, under {', '.join(names)}", cells, in_paper=False)


def _other_methods(published: Sequence[Published], columns: Sequence[Column], chooser: Chooser) -> Iterator[Row]:
    """Methods that the paper's table does not compare, where they have runs."""
    there = {cell.place.method for cell in published}
    datasets = dict.fromkeys(cell.place.dataset for cell in published)
    methods = sorted({method for dataset in datasets for method in chooser.methods(dataset)} - there)
    for method in methods:
        cells = tuple(chooser.cell(_place(method, column, ()), column.metric, None) for column in columns)
        if any(cell.measured or cell.others for cell in cells):
            yield Row(printed(method), cells, in_paper=False)


def _key(place: Place) -> tuple[object, ...]:
    return place.dataset, place.imbalance_ratio, place.backbone


def _place(method: str, column: Column, words: tuple[str, ...]) -> Place:
    dataset, ratio, backbone = column.key
    return Place(method, str(dataset), ratio, str(backbone), words)  # type: ignore[arg-type]


def _columns(published: Sequence[Published]) -> tuple[Column, ...]:
    """In order of appearance; headed by ratio where a data set has several, else by metric."""
    keys = list(dict.fromkeys((_key(cell.place), cell.metric) for cell in published))
    ratios: dict[object, set[object]] = {}
    backbones: dict[object, set[object]] = {}
    for (dataset, ratio, backbone), _ in keys:
        ratios.setdefault(dataset, set()).add(ratio)
        backbones.setdefault(dataset, set()).add(backbone)
    columns = []
    for (dataset, ratio, backbone), metric in keys:
        several = len(ratios[dataset]) > 1
        group = place_heading(str(dataset), None if several else ratio, backbone if len(backbones[dataset]) > 1 else "")
        heading = f"{ratio:g}" if several and isinstance(ratio, float) else printed(metric)
        columns.append(Column(group, heading, metric, (dataset, ratio, backbone)))
    return tuple(columns)


def place_heading(dataset: str, ratio: object, backbone: object) -> str:
    """``CIFAR-100-LT``; a backbone where the table has several; a ratio that is not 100."""
    parts = [printed(dataset), printed(str(backbone)) if backbone else ""]
    parts += [f"ratio {ratio:g}"] if isinstance(ratio, float) and ratio != 100 else []
    return ", ".join(part for part in parts if part)


def _turned(table: Table) -> Table:
    """A single row whose columns are the table's rows."""
    (column,) = table.columns
    columns = tuple(
        Column(column.group, row.label.replace("delta ", "δ = "), column.metric, column.key) for row in table.rows
    )
    row = Row("Accuracy", tuple(row.cells[0] for row in table.rows))
    return Table(table.number, table.title, columns, [row], table.view, table.notes)
