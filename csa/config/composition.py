"""The configuration tree as Hydra composes it; no file is written."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from copy import copy
from dataclasses import dataclass, replace
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from csa.config.faults import Fault, UserError
from csa.config.locations import conf_dir, shipped, sweeps_dir

if TYPE_CHECKING:
    from hydra.plugins.config_source import ConfigResult

    from csa.config.schema import Config

PUBLISHED = "published"
"""``protocol=published``: that of the method's paper, or of whoever ran its published row (its file says whose)."""

SETTINGS = ("sweeper", "launcher")
"""Parts of Hydra's own that a command may set."""


def _tuned(default: float, known: Mapping[str, Mapping[float, float]], *, _root_: DictConfig) -> float:
    """``${tuned:default,{data_set:{ratio:value}}}``: what is known to be tuned for the data, else the default.

    The ratios are of the exponential profile, which published rows have.
    """
    dataset = _root_.dataset
    values = known.get(dataset.name, {}) if dataset.profile == "exp" else {}
    return next((value for ratio, value in values.items() if ratio == dataset.imbalance_ratio), default)


def _recipe(with_weights: str, without: str, key: str, *, _root_: DictConfig) -> Any:
    """``${recipe:finetune,small,lr}``: a key of the one protocol where the backbone has weights, else of the other."""
    pretrained = _root_.backbone.get("weights") is not None
    block: Any = shipped("protocol", with_weights if pretrained else without)
    return reduce(getitem, key.split("."), block)


OmegaConf.register_resolver("tuned", _tuned, replace=True)
OmegaConf.register_resolver("recipe", _recipe, replace=True)


class CompositionError(Exception):
    """What Hydra or OmegaConf raise over words, whatever it is, in a line. unknown_key: a key is not there."""

    def __init__(self, error: Exception) -> None:
        inner = error.__cause__ if isinstance(error, HydraException) else None
        cause = inner if isinstance(inner, OmegaConfBaseException) else error
        super().__init__((str(cause) or str(cause.__cause__) or type(cause).__name__).strip().splitlines()[0])
        self.unknown_key = isinstance(cause, ConfigAttributeError | ConfigKeyError)


@contextmanager
def composition_errors() -> Iterator[None]:
    """Around calls of Hydra and OmegaConf: what they raise becomes a CompositionError."""
    try:
        yield
    except Exception as error:
        raise CompositionError(error) from error


class NotPublishedError(CompositionError):
    """The method names no recipe for this kind of data."""


_added_dir: ContextVar[str | None] = ContextVar("added_dir", default=None)
"""Of ``--config-dir``, where we compose; Hydra's own command line adds it by itself."""


class SweepFiles(SearchPathPlugin):
    """Lets ``-cn table2`` find the files of ``sweeps/``, and what ``--config-dir`` adds to our tree go before it."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        if sweeps_dir().is_dir():
            search_path.append("csa", f"file://{sweeps_dir()}")
        if added := _added_dir.get():
            search_path.prepend("command-line", f"file://{Path(added).absolute()}", SearchPathQuery(provider="schema"))


def register_sweep_files() -> None:
    """Once, before Hydra looks for configurations."""
    if SweepFiles not in Plugins.instance().discover(SearchPathPlugin):
        Plugins.instance().register(SweepFiles)


@dataclass(frozen=True)
class Composed:
    """A composed configuration without Hydra's own part and without what a sweep file varies.

    words: those that make it; hydra: Hydra's part, which may refer to keys of ours; cells: the grids of a sweep file;
    searched: the ranges of a search, by key; multirun: whether it asks to be swept.
    """

    words: tuple[str, ...]
    config: DictConfig
    hydra: DictConfig
    cells: list[Any]
    searched: dict[str, str]
    multirun: bool

    @property
    def whole(self) -> DictConfig:
        """With Hydra's part, under the values that ours have now."""
        whole = self.config.copy()
        with open_dict(whole):
            whole["hydra"] = self.hydra
        return whole

    @property
    def sweeper(self) -> dict[str, Any]:
        """The settings of Hydra's sweeper. Raises CompositionError where they refer to what is not there."""
        with composition_errors():
            resolved: Any = OmegaConf.to_container(self.whole.hydra.sweeper, resolve=True)
        return resolved  # type: ignore[no-any-return]

    @property
    def varied(self) -> list[str]:
        """The words by which a file varies keys: ``search:``, or ``hydra.sweeper.params``. Raises as ``sweeper``."""
        with composition_errors():
            params = self.whole.hydra.sweeper.get("params") or {}
            if not isinstance(params, Mapping):
                raise TypeError("is not a group of keys")
            return [f"{key}={value}" for key, value in {**params, **self.searched}.items()]


def _hydra(config_dir: str | None) -> Hydra:
    """It composes when it is asked, whatever Hydra's global state is: its own command line may be at work."""
    if config_dir is not None and not Path(config_dir).is_dir():
        raise UserError(Fault("--config-dir", config_dir, "there is no such folder"))
    register_sweep_files()
    added = _added_dir.set(config_dir)
    try:
        loader = ConfigLoaderImpl(create_config_search_path(str(conf_dir())))
    finally:
        _added_dir.reset(added)
    loader.repository = _ReadOnce(loader.config_search_path)
    return Hydra("csa", loader)


class _ReadOnce(ConfigRepository):
    """Reads a file once for all that is composed: most files are those of every combination of options."""

    def initialize_sources(self, config_search_path: ConfigSearchPath) -> None:
        super().initialize_sources(config_search_path)
        self._read: dict[str, bytes] = {}

    def load_config(self, config_path: str) -> ConfigResult | None:
        if config_path not in self._read:
            self._read[config_path] = pickle.dumps(super().load_config(config_path))
        # A copy, since composing changes it; so made it takes an eighth of the time that deepcopy does.
        return pickle.loads(self._read[config_path])  # type: ignore[no-any-return]  # noqa: S301 (own bytes)

    def __deepcopy__(self, _memo: dict[int, Any]) -> _ReadOnce:
        """Hydra copies it for each composition; what was read is still shared, until a copy gets other sources."""
        return copy(self)


class Tree:
    """Our folders, as Hydra sees them now, under one primary configuration.

    config_dir: a folder that is added before them. Raises UserError where it is none.
    """

    def __init__(self, config_name: str, config_dir: str | None = None) -> None:
        self.config_name = config_name
        self._hydra = _hydra(config_dir)
        self._options: dict[str, list[str]] = {}
        self._parsed: dict[str, Override] = {}
        self._composed: dict[tuple[str, ...], Composed] = {}
        self._parser = OverridesParser.create(self._hydra.config_loader)

    def parse(self, word: str) -> Override:
        """One word of the command line. Raises CompositionError."""
        if word not in self._parsed:
            with composition_errors():
                override = self._parser.parse_overrides([word])[0]
                override.value()
            self._parsed[word] = override
        return self._parsed[word]

    def options(self, group: str) -> list[str]:
        """Options of a group (``method``); an empty list where there is no such group. '': primary configurations."""
        if group not in self._options:
            found = self._hydra.config_loader.get_group_options(group)
            ours = [PUBLISHED] if group == "protocol" else []
            self._options[group] = sorted([*(option for option in found if not option.startswith("_")), *ours])
        return self._options[group]

    def chooses(self, override: Override) -> bool:
        """Whether it chooses an option of a group: of ours, or with a plus of one that is added."""
        return (
            override.type in (OverrideType.CHANGE, OverrideType.ADD, OverrideType.FORCE_ADD)
            and override.package is None
            and not override.is_hydra_override()
            and bool(self.options(override.key_or_group))
        )

    def sets_value(self, override: Override) -> bool:
        """Whether it changes one plain value, so that it can be applied after composing."""
        plain = override.type is OverrideType.CHANGE and override.package is None and not override.is_hydra_override()
        return plain and not self.options(override.key_or_group)

    def published_spelt_out(self, overrides: Sequence[Override]) -> list[Override]:
        """The overrides with ``protocol=published`` replaced by the recipe that it stands for.

        It is the one, of those that the method names, that belongs to the protocol of the data set:
        ``cifar_ldam`` to ``cifar``. Raises CompositionError, of which NotPublishedError is one.
        """
        others = [override for override in overrides if not _asks_for_published(override)]
        if len(others) == len(overrides):
            return others
        config = self.compose(others).config
        family, method = config.protocol.name, config.method
        for name in method.published:
            if name == family or name.startswith(f"{family}_"):
                return [*others, self.parse(f"protocol={name}")]
        named = f" (only {', '.join(method.published)})" if method.published else ""
        problem = f"method={method.name} names no published recipe for dataset={config.dataset.name}{named}"
        raise NotPublishedError(ValueError(problem))

    def compose(self, overrides: Sequence[Override]) -> Composed:
        """With a configuration of the caller's own. Raises CompositionError at the first fault."""
        lines = tuple(str(override.input_line) for override in self.published_spelt_out(overrides))
        if lines not in self._composed:
            self._composed[lines] = self._compose(lines)
        known = self._composed[lines]
        return replace(known, config=known.config.copy())

    def _compose(self, lines: tuple[str, ...]) -> Composed:
        with composition_errors():
            config = self._hydra.compose_config(self.config_name, [*lines], run_mode=RunMode.RUN, from_shell=False)
            for part in SETTINGS:
                if not isinstance(config.hydra[part], DictConfig):
                    raise TypeError(f"hydra.{part} is not a group of keys")
            multirun = config.hydra.mode == RunMode.MULTIRUN
            with open_dict(config):
                own, grids = config.pop("hydra"), config.pop("cells", None)
                ranges = config.pop("search", None)
            if not isinstance(grids, ListConfig | None):
                raise TypeError("cells is not a list of grids")
            if not isinstance(ranges, DictConfig | None):
                raise TypeError("search is not a group of keys and their ranges")
            cells: Any = [] if grids is None else OmegaConf.to_container(grids)
            searched = {str(key): str(value) for key, value in (ranges or {}).items() if value is not None}
        return Composed(lines, config, own, cells, searched, multirun)


def spelt_out(words: Sequence[str], config: DictConfig | Config) -> list[str]:
    """The words of ``config`` as Hydra knows them: ``protocol=published`` by the name of the recipe."""
    return [f"protocol={config.protocol.name}" if word == f"protocol={PUBLISHED}" else word for word in words]


def left_to_cells(words: Sequence[str]) -> list[str]:
    """The words of a sweep: what only each cell can spell out looks to Hydra like a choice of one, which it leaves."""
    return [f"protocol=choice({PUBLISHED})" if word == f"protocol={PUBLISHED}" else word for word in words]


def _asks_for_published(override: Override) -> bool:
    return override.key_or_group == "protocol" and override.value() == PUBLISHED
