"""Request: what the words of one command ask, before data is read, torch imported or a file written.

Hydra stops at its first fault. Here all words are read, composed as far as they go, and every
value, of a sweep too, is checked against the schema; then the data and the machine.
"""

from __future__ import annotations

from argparse import ArgumentError, ArgumentParser
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypeVar

from csa.config.cells import apply, expand
from csa.config.composer import Checked, Composer, unresolved
from csa.config.composition import SETTINGS, CompositionError, Tree
from csa.config.faults import Fault, UserError, nearest
from csa.config.host import device_faults, output_faults, weights_faults
from csa.config.rules import validation_faults
from csa.config.schema import Config
from csa.config.words import SMOKE, Word, read, with_smoke

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hydra.core.override_parser.types import Override

    from csa.config.composition import Composed
    from csa.config.schema import BackboneConfig, DatasetConfig, TrackingConfig
    from csa.data.sources.source import Preview

    T = TypeVar("T")

CONFIG_DIR = "--config-dir"
KEYS = tuple(field.name for field in fields(Config))
OUTPUT, OTHERWISE_OUTPUT = "to", ("output", "out", "output_dir", "outdir", "out_dir")
"""The word for where an entry's files go, and what other programs call it."""
OF_THE_DATA = ("dataset", "data_dir", "download")


@dataclass(frozen=True)
class Request:
    """What a sound command asks.

    words: of the command, as they are meant; composed: what the first values of a sweep, or those of a run, make.
    """

    words: list[str]
    composed: Composed
    checked: Checked
    sweeps: bool

    @property
    def config(self) -> Config:
        """Of a sweep: under the words of the command alone, without the first values of what its file varies."""
        return self.checked.config


def preflight(
    words: Sequence[str],
    config_name: str = "config",
    *,
    config_dir: str | None = None,
    multirun: bool = False,
    to_run: bool = True,
) -> Request:
    """What the command ``words`` asks.

    config_dir: of ``--config-dir``; multirun: whether ``-m`` was given; to_run: whether data and machine are looked at.

    Raises:
        UserError: with every fault of the command.
    """
    tree = Tree(config_name, config_dir)
    composer, feasibility = Composer(tree), Feasibility()
    command, faults = read(tree, with_smoke(words))
    values = [word.values[0] for word in command]
    composed = composer.composed(values)
    sweeps, varied = multirun or composed.multirun, list[Word]()
    if sweeps:
        varied, more = _varied(tree, composed, command)
        faults += more
    else:
        faults += _sweeps_without_multirun(command)
    every = list(_first_and_alternatives(composer, [*command, *varied]))
    own = composer.checked(values) if varied else every[0]
    for checked in every:
        faults += checked.faults + (feasibility.faults(checked) if to_run else [])
    if sweeps and not faults:
        faults += [fault for part in SETTINGS for fault in unresolved(composed.whole, f"hydra.{part}")]
    if faults:
        raise UserError(*faults)
    return Request([word.text for word in command], composed, own, sweeps)


def configure(
    words: Sequence[str],
    *,
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
    config_dir, words = _added_folder(words)
    own_words = [word for word in words if word.partition("=")[0] in extra]
    own, faults = _own_words(own_words, extra)
    others = [word for word in words if word not in own_words]
    tree = Tree("config", config_dir)
    command, more = read(tree, with_smoke(others) if SMOKE in (*takes, *passes_over) else others)
    taken, foreign = _taken(command, [*extra, *takes], passes_over)
    checked = Composer(tree).checked([word.values[0] for word in taken])
    faults += more + _sweeps_without_multirun(taken) + foreign + checked.faults
    faults += Feasibility().of_the_data(checked)[0]
    if faults:
        raise UserError(*faults)
    return checked.config, own | {CONFIG_DIR: config_dir or ""}


# --- what is checked ------------------------------------------------------------------------


def _varied(tree: Tree, first: Composed, words: Sequence[Word]) -> tuple[list[Word], list[Fault]]:
    """The words by which a file varies keys, or the options of its first cell, but for those that the command names."""
    named = {word.key for word in words}
    texts = list(first.varied)
    if first.cells:
        with suppress(UserError):  # the sweep tells of its own cells
            cells = apply(expand(first.cells), [tree.parse(word.text) for word in words])
            texts += [f"{key}={value}" for cell in cells[:1] for key, value in cell.settings if tree.options(key)]
    try:
        return read(tree, [text for text in texts if text.partition("=")[0] not in named])
    except CompositionError as error:
        return [], [Fault("hydra.sweeper.params", None, str(error))]


def _first_and_alternatives(composer: Composer, words: Sequence[Word]) -> Iterator[Checked]:
    """The first run of a sweep, then for each further value the first with that value changed: not the product."""
    first: list[Override] = [word.values[0] for word in words]
    yield composer.checked(first)
    for position, word in enumerate(words):
        for value in word.values[1:]:
            yield composer.checked([*first[:position], value, *first[position + 1 :]])


def _sweeps_without_multirun(words: Sequence[Word]) -> list[Fault]:
    allowed = "one value; -m runs them all; a list is written [a,b]"
    parts = [word.text.partition("=") for word in words if word.swept]
    return [Fault(key, values, "has several values", allowed) for key, _, values in parts]


# --- data and machine -----------------------------------------------------------------------


class Feasibility:
    """Faults of data and machine, of as much as is sound; each data set, device and folder is looked at once."""

    def __init__(self) -> None:
        self._known: dict[str, Any] = {}

    def faults(self, checked: Checked) -> list[Fault]:
        faults, preview = self.of_the_data(checked)
        whole = not (faults or checked.faults)
        if preview is not None and (sound := checked.sound("backbone")):
            faults += _size_faults(sound[0], preview)
        for look, keys in ON_THIS_MACHINE.items():
            if sound := checked.sound(*keys):
                faults += self._once(look, *sound)
        return faults + (_whole_faults(checked.config, preview) if whole else [])

    def of_the_data(self, checked: Checked) -> tuple[list[Fault], Preview | None]:
        """Faults of the data set once its settings are sound, and its sizes where they are known beforehand."""
        if not (sound := checked.sound(*OF_THE_DATA)):
            return [], None
        faults, preview = self._once(_look_at_data, *sound)
        return list(faults), preview

    def _once(self, look: Callable[..., T], *at: Any) -> T:
        key = repr((look.__name__, at))
        if key not in self._known:
            self._known[key] = look(*at)
        return self._known[key]  # type: ignore[no-any-return]


def _look_at_data(dataset: DatasetConfig, data_dir: str, download: bool) -> tuple[list[Fault], Preview | None]:
    from csa.data.dataset import inspect, preview

    try:
        faults = inspect(dataset, data_dir, download)
        return faults, None if faults else preview(dataset, data_dir)
    except UserError as error:
        return list(error.faults), None


def _tracking_faults(settings: TrackingConfig) -> list[Fault]:
    from csa.tracking.tracker import tracker_of

    try:
        tracker = tracker_of(settings)
    except UserError as error:
        return list(error.faults)
    return [] if tracker is None else tracker.faults()


ON_THIS_MACHINE: dict[Callable[..., list[Fault]], tuple[str, ...]] = {
    device_faults: ("runtime", "protocol"),
    output_faults: ("output_root",),
    weights_faults: ("backbone",),
    _tracking_faults: ("tracking",),
}
"""What is asked of which keys of a configuration."""


def _size_faults(backbone: BackboneConfig, preview: Preview) -> list[Fault]:
    """Whether a backbone can take the images of a data set."""
    height, width = preview.image_shape[1:]
    if min(height, width) >= backbone.min_size:
        return []
    problem = f"cannot take images of {height}x{width} pixels"
    return [Fault("backbone", backbone.name, problem, f"sides of at least {backbone.min_size} pixels")]


def _whole_faults(config: Config, preview: Preview | None) -> list[Fault]:
    """Of a configuration and data without others: memory that is not there, validation images that are needed."""
    from csa.data.dataset import has_validation, memory_faults

    memory = [] if preview is None else memory_faults(config, preview)
    needed = [] if has_validation(config.dataset, preview) else validation_faults(config)
    return memory + needed


# --- words of an entry's own ----------------------------------------------------------------


def _added_folder(words: Sequence[str]) -> tuple[str | None, list[str]]:
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
