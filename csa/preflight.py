"""Pre-flight: every fault of one command, found before data is read, torch imported or a file written.

Hydra stops at its first fault. Here all words are read, composed as far as they go, and every
value, of a sweep too, is checked against the schema; then the data and the machine.
"""

from __future__ import annotations

from argparse import ArgumentError, ArgumentParser
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, cast

from omegaconf import OmegaConf

from csa.config.blocks import build_block
from csa.config.composition import SETTINGS, CompositionError, tree
from csa.config.faults import Fault, UserError, nearest
from csa.config.host import device_fault, output_fault, weights_fault
from csa.config.overrides import Settled, Word, apply, read, settle
from csa.config.rules import validation_faults
from csa.config.schema import Config, DatasetConfig, TrackingConfig
from csa.config.typed import build, check, resolve_and_check, unresolved

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override
    from omegaconf import DictConfig

    from csa.config.composition import Composed, Tree
    from csa.data.sources.source import Preview

    Inspected = dict[str, tuple[list[Fault], Preview | None]]

CONFIG_DIR = "--config-dir"
KEYS = tuple(field.name for field in fields(Config))
OUTPUT, OTHERWISE_OUTPUT = "to", ("output", "out", "output_dir", "outdir", "out_dir")
"""The word for where an entry's files go, and what other programs call it."""


def preflight(
    words: Sequence[str],
    config_name: str = "config",
    *,
    config_dir: str | None = None,
    multirun: bool = False,
    to_run: bool = True,
) -> Composed:
    """What the first run of the command ``words`` composes to.

    config_dir: of ``--config-dir``; multirun: whether ``-m`` was given; to_run: whether data and machine are looked at.

    Raises:
        UserError: with every fault of the command.
    """
    with tree(config_name, config_dir) as tree_:
        read_words, faults = read(tree_, words)
        first, cells = _cells(tree_, read_words, faults, multirun=multirun)
    inspected: Inspected = {}
    for cell in cells:
        values, told = resolve_and_check(cell.composed.config, cell.doubtful)
        found = cell.faults + told
        faults += found
        if to_run:
            faults += _data_faults(cell, found, inspected) + _size_faults(cell, found, inspected)
            faults += _machine_faults(cell, found)
            if not found:
                faults += _memory_faults(cell, values, inspected) + _validation_faults(cell, values, inspected)
    if not faults and (multirun or first.multirun):
        faults += [fault for part in SETTINGS for fault in unresolved(first.whole, f"hydra.{part}")]
    if faults:
        raise UserError(*_each_once(faults))
    return first


def configure(
    words: Sequence[str],
    *,
    config_name: str = "config",
    extra: Mapping[str, tuple[str, ...]] | None = None,
    takes: Sequence[str] = KEYS,
    passes_over: Sequence[str] = (),
) -> tuple[Config, dict[str, str]]:
    """The configuration of an entry that makes no run, and its own words.

    extra: the entry's own ``key=value`` words with the values they may have, the first being the
    default; an empty tuple stands for any text, the default being "". takes: those of csa.run, by their first part,
    that it reads as well; passes_over: those that may stand there, and change nothing. ``--config-dir`` is a word of
    every entry.
    Raises UserError with every fault of the configuration and of the data.
    """
    extra = extra or {}
    config_dir, words = added_folder(words)
    own_words = [word for word in words if word.partition("=")[0] in extra]
    own, faults = _own_words(own_words, extra)
    with tree(config_name, config_dir) as tree_:
        read_words, more = read(tree_, [word for word in words if word not in own_words])
        taken, others = _taken(read_words, [*extra, *takes], passes_over)
        faults += more + _sweeps_without_multirun(taken) + others
        cell = _first_cell_and_alternatives(tree_, taken)[0]
    found = cell.faults + check(cell.composed.config, cell.doubtful)
    faults += found + _data_faults(cell, found, {})
    if faults:
        raise UserError(*_each_once(faults))
    return build(cell.composed.config), own | {CONFIG_DIR: config_dir or ""}


# --- cells ----------------------------------------------------------------------------------


def _cells(tree_: Tree, words: list[Word], faults: list[Fault], *, multirun: bool) -> tuple[Composed, list[Settled]]:
    """What the first values of the words compose to; the cells to be checked, under what a sweeper's settings vary."""
    cells = _first_cell_and_alternatives(tree_, words)
    first = cells[0].composed
    if not (multirun or first.multirun):
        faults += _sweeps_without_multirun(words)
        return first, cells
    named = {word.key for word in words}
    try:
        varied, more = read(tree_, [text for text in first.varied if text.partition("=")[0] not in named])
    except CompositionError as error:
        varied, more = [], [Fault("hydra.sweeper.params", None, str(error))]
    faults += more
    return first, _first_cell_and_alternatives(tree_, [*words, *varied]) if varied else cells


def _first_cell_and_alternatives(tree_: Tree, words: Sequence[Word]) -> list[Settled]:
    """The first cell of a sweep, then for each further value the first cell with that value alone changed.

    Not the product: a thousand cells cost as many checks as there are values.
    """
    first = [word.values[0] for word in words]
    cells = [settle(tree_, first)]
    for place, word in enumerate(words):
        for value in word.values[1:]:
            cells.append(_changed(tree_, cells[0], first, place, value))
    return cells


def _changed(tree_: Tree, cell: Settled, words: list[Override], place: int, value: Override) -> Settled:
    if not tree_.sets_value(value):
        return settle(tree_, [*words[:place], value, *words[place + 1 :]])
    changed = Settled(cell.composed, doubtful=cell.doubtful)
    apply(changed, value)
    return changed


def _sweeps_without_multirun(words: Sequence[Word]) -> list[Fault]:
    allowed = "one value; -m runs them all; a list is written [a,b]"
    parts = [word.text.partition("=") for word in words if word.swept]
    return [Fault(key, values, "has several values", allowed) for key, _, values in parts]


# --- data and machine -----------------------------------------------------------------------


def _data_faults(cell: Settled, found: Sequence[Fault], inspected: Inspected) -> list[Fault]:
    """Faults of the data set, once its settings are sound; each data set is inspected once."""
    if not _sound(cell, found, "dataset", "data_dir", "download"):
        return []
    config = cell.composed.config
    address = _address(config)
    if address not in inspected:
        inspected[address] = _inspect(config)
    return inspected[address][0]


def _inspect(config: DictConfig) -> tuple[list[Fault], Preview | None]:
    from csa.data.dataset import inspect, preview

    values = cast("Mapping[str, Any]", OmegaConf.to_container(config.dataset, resolve=True))
    dataset = build_block(DatasetConfig, values)
    try:
        faults = inspect(dataset, str(config.data_dir), config.download)
        return faults, None if faults else preview(dataset, str(config.data_dir))
    except UserError as error:
        return list(error.faults), None


def _size_faults(cell: Settled, found: Sequence[Fault], inspected: Inspected) -> list[Fault]:
    """Whether the backbone can take the images, where their size is known beforehand."""
    if not _sound(cell, found, "dataset", "data_dir", "download", "backbone"):
        return []
    config = cell.composed.config
    _, known = inspected[_address(config)]
    return [] if known is None else size_faults(config.backbone.name, config.backbone.min_size, known)


def _validation_faults(cell: Settled, values: Mapping[str, Any], inspected: Inspected) -> list[Fault]:
    """Of sound values: what needs validation images, where the data has none."""
    from csa.data.dataset import has_validation

    config = build_block(Config, values)
    faults, known = inspected[_address(cell.composed.config)]
    return [] if faults or has_validation(config.dataset, known) else validation_faults(config)


def size_faults(backbone: str, min_size: int, known: Preview) -> list[Fault]:
    """Whether a backbone can take the images of a data set."""
    height, width = known.image_shape[1:]
    if min(height, width) >= min_size:
        return []
    problem = f"cannot take images of {height}x{width} pixels"
    return [Fault("backbone", backbone, problem, f"sides of at least {min_size} pixels")]


def _memory_faults(cell: Settled, values: Mapping[str, Any], inspected: Inspected) -> list[Fault]:
    """Of sound values: whether this machine has the memory for them."""
    from csa.data.memory import memory_fault

    _, known = inspected[_address(cell.composed.config)]
    fault = None if known is None else memory_fault(build_block(Config, values), known)
    return [fault] if fault else []


def _machine_faults(cell: Settled, found: Sequence[Fault]) -> list[Fault]:
    config = cell.composed.config
    device = device_fault(config.runtime, config.protocol) if _sound(cell, found, "runtime", "protocol") else None
    output = output_fault(str(config.output_root)) if _sound(cell, found, "output_root") else None
    weights = weights_fault(config.backbone.get("weights")) if _sound(cell, found, "backbone") else None
    tracking = _tracking_faults(config) if _sound(cell, found, "tracking") else []
    return [*filter(None, (device, output, weights)), *tracking]


def _tracking_faults(config: DictConfig) -> list[Fault]:
    from csa.tracking.tracker import tracking_faults

    values = cast("Mapping[str, Any]", OmegaConf.to_container(config.tracking, resolve=True))
    return tracking_faults(build_block(TrackingConfig, values))


def _sound(cell: Settled, found: Sequence[Fault], *keys: str) -> bool:
    """Whether nothing is wrong with these keys of the top level, or below them."""
    faulty = {fault.key.split(".")[0] for fault in found} | cell.doubtful
    return faulty.isdisjoint(keys)


def _address(config: DictConfig) -> str:
    """The same for two configurations of the same data."""
    return repr((OmegaConf.to_container(config.dataset, resolve=True), config.data_dir, config.download))


# --- words of an entry's own ----------------------------------------------------------------


def added_folder(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """The folder that ``--config-dir`` names, written as Hydra takes it, and the other words."""
    parser = ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument(CONFIG_DIR, "-cd", dest="folder")
    try:
        found, others = parser.parse_known_args(words)
    except ArgumentError as error:
        raise UserError(Fault(CONFIG_DIR, None, "needs a folder", "--config-dir mine/conf")) from error
    return found.folder, others


def _own_words(words: Sequence[str], extra: Mapping[str, tuple[str, ...]]) -> tuple[dict[str, str], list[Fault]]:
    own = {key: allowed[0] if allowed else "" for key, allowed in extra.items()}
    faults = []
    for word in words:
        key, _, value = word.partition("=")
        choices = [choice for choice in extra[key] if choice]  # an empty first one stands where nothing is said
        if choices and value not in extra[key]:
            allowed = ", ".join(choices)
            faults.append(Fault(key, value, "is not one of the choices", allowed, nearest(value, choices)))
        own[key] = value
    return own, faults


def _taken(words: Sequence[Word], keys: Sequence[str], passes_over: Sequence[str]) -> tuple[list[Word], list[Fault]]:
    """The words that an entry takes, by the first part of their keys, and a fault for each other."""
    taken, faults = [], []
    for word in words:
        key = word.values[0].key_or_group
        if key.split(".")[0] in (*keys, *passes_over):
            taken.append(word)
            continue
        meant = OUTPUT if key in OTHERWISE_OUTPUT and OUTPUT in keys else nearest(key, keys)
        value = word.text.partition("=")[2] or None
        faults.append(Fault(key, value, "unknown key", ", ".join(keys), meant))
    return taken, faults


def _each_once(faults: Sequence[Fault]) -> list[Fault]:
    return list({str(fault): fault for fault in faults}.values())
