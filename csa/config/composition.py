"""The configuration tree as Hydra composes it; no file is written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hydra import compose, initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from csa.config.locations import conf_dir, sweeps_dir

if TYPE_CHECKING:
    from csa.config.schema import Config

COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException, ValueError, OSError)
PUBLISHED = "published"
"""``protocol=published``: that of the method's paper, or of whoever ran its published row (its file says whose)."""


class NotPublishedError(ValueError):
    """The method names no recipe for this kind of data."""


class SweepFiles(SearchPathPlugin):
    """Lets ``-cn table2`` find the files of ``sweeps/``."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        if sweeps_dir().is_dir():
            search_path.append("csa", f"file://{sweeps_dir()}")


def register_sweep_files() -> None:
    """Once, before Hydra looks for configurations."""
    if SweepFiles not in Plugins.instance().discover(SearchPathPlugin):
        Plugins.instance().register(SweepFiles)


@dataclass(frozen=True)
class Composed:
    """A composed configuration without Hydra's own part and without what a sweep file varies.

    multirun: whether it asks to be swept (``hydra.mode``); sweeper: the settings of Hydra's sweeper;
    cells: the grids of a sweep file.
    """

    config: DictConfig
    multirun: bool
    sweeper: dict[str, Any]
    cells: list[Any]

    def with_value(self, word: Override) -> Composed:
        """This with one plain value set, as composing anew would give it (25 times faster)."""
        config = self.config.copy()
        OmegaConf.update(config, word.key_or_group, word.value(), merge=True)
        return replace(self, config=config)


class Tree:
    """The configuration tree under one primary configuration."""

    def __init__(self, config_name: str, loader: ConfigLoader) -> None:
        self.config_name = config_name
        self._loader = loader
        self._options: dict[str, list[str]] = {}
        self._parser = OverridesParser.create(loader)

    def parse(self, word: str) -> Override:
        """One word of the command line. Raises HydraException."""
        return self._parser.parse_overrides([word])[0]

    def options(self, group: str) -> list[str]:
        """Options of a group (``method``); an empty list where there is no such group. '': primary configurations."""
        if group not in self._options:
            found = self._loader.get_group_options(group)
            ours = [PUBLISHED] if group == "protocol" else []
            self._options[group] = sorted([*(option for option in found if not option.startswith("_")), *ours])
        return self._options[group]

    def chooses(self, word: Override) -> bool:
        """Whether the word chooses an option of one of our groups."""
        return (
            word.type is OverrideType.CHANGE
            and word.package is None
            and not word.is_hydra_override()
            and bool(self.options(word.key_or_group))
        )

    def sets_value(self, word: Override) -> bool:
        """Whether the word changes one plain value, so that it can be applied after composing."""
        plain = word.type is OverrideType.CHANGE and word.package is None and not word.is_hydra_override()
        return plain and not self.options(word.key_or_group)

    def published_spelt_out(self, words: Sequence[Override]) -> list[Override]:
        """The words with ``protocol=published`` replaced by the recipe that it stands for.

        It is the one, of those that the method names, that belongs to the protocol of the data set:
        ``cifar_ldam`` to ``cifar``. Raises NotPublishedError, or one of COMPOSITION_ERRORS.
        """
        others = [word for word in words if not _asks_for_published(word)]
        if len(others) == len(words):
            return others
        config = self.compose(others).config
        family, method = config.protocol.name, config.method
        for name in method.published:
            if name == family or name.startswith(f"{family}_"):
                return [*others, self.parse(f"protocol={name}")]
        named = f" (only {', '.join(method.published)})" if method.published else ""
        raise NotPublishedError(
            f"method={method.name} names no published recipe for dataset={config.dataset.name}{named}"
        )

    def compose(self, words: Sequence[Override]) -> Composed:
        """Raises one of COMPOSITION_ERRORS at the first fault."""
        lines = [str(word.input_line) for word in self.published_spelt_out(words)]
        config = compose(self.config_name, lines, return_hydra_config=True)
        multirun = config.hydra.mode == RunMode.MULTIRUN
        sweeper: Any = OmegaConf.to_container(config.hydra.sweeper, resolve=True)
        with open_dict(config):
            cells: Any = OmegaConf.to_container(config.pop("cells"))
            del config["hydra"]
        return Composed(config, multirun, sweeper, cells)


def spelt_out(words: Sequence[str], config: DictConfig | Config) -> list[str]:
    """The words of ``config`` as Hydra knows them: ``protocol=published`` by the name of the recipe."""
    return [f"protocol={config.protocol.name}" if word == f"protocol={PUBLISHED}" else word for word in words]


def left_to_cells(words: Sequence[str]) -> list[str]:
    """The words of a sweep: what only each cell can spell out looks to Hydra like a choice of one, which it leaves."""
    return [f"protocol=choice({PUBLISHED})" if word == f"protocol={PUBLISHED}" else word for word in words]


def _asks_for_published(word: Override) -> bool:
    return word.key_or_group == "protocol" and word.value() == PUBLISHED


@contextmanager
def tree(config_name: str) -> Iterator[Tree]:
    """Hydra initialised on our folders for a while."""
    register_sweep_files()
    with initialize_config_dir(str(conf_dir()), job_name="csa"):
        yield Tree(config_name, GlobalHydra.instance().config_loader())
