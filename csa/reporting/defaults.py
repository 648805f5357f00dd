"""What a run has beyond the defaults of its data set and method, as the words of a command.

Each group's option is composed once, whatever the number of runs. Group by what was recorded, not by
these words: of an option that this version has not, nothing is known to differ.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from csa.config.blocks import flat
from csa.config.composer import build
from csa.config.composition import CompositionError, Tree
from csa.config.faults import UserError
from csa.config.identity import canonical, identity

if TYPE_CHECKING:
    from csa.tracking.run import Run

GROUPS = ("dataset", "method", "sampler", "backbone", "protocol")
CHOSEN = ("sampler", "backbone", "protocol")
"""Groups whose option follows from data set and method unless a word names it."""
CHOOSES = {"dataset": ("backbone", "protocol"), "method": ("sampler",)}
# Of a data set's block: where its images lie, and what the class of its block is, decide no result.
NOT_OF_THE_DATA = ("schema", "source", "path", "npz_name", "root", "lists", "cache", "cache_dir")
IN_A_COLUMN = ("name", "imbalance_ratio")


@dataclass(frozen=True)
class Beyond:
    """Words beyond ``dataset=``, its ratio and ``method=``, by what they are of; those of the recipe begin with a
    backbone and a protocol that are not the data set's own.

    usual_epochs: of the protocol as it is named; None where it is unknown. outdated: whether a run of these settings
    has another identity now, since a correction.
    """

    data: tuple[str, ...] = ()
    recipe: tuple[str, ...] = ()
    method: tuple[str, ...] = ()
    usual_epochs: int | None = None
    outdated: bool = False


@cache
def shipped_defaults() -> Defaults:
    """Without a folder of one's own: what is installed does not change while a process lives."""
    return Defaults()


class Defaults:
    """Answers for many runs; every option and every distinct configuration is looked at once.

    config_dir: of ``--config-dir``, where options of another package are.
    """

    def __init__(self, config_dir: str | None = None) -> None:
        self._tree = Tree("config", config_dir)
        self._options: dict[tuple[str, str], DictConfig] = {}
        self._known: dict[str, Beyond] = {}

    def beyond(self, run: Run) -> Beyond:
        config = {name: run.config[name] for name in (*GROUPS, "delta", "variant") if name in run.config}
        who = {name: part for name, part in run.identity.items() if name not in ("seed", "dataset")}
        key = json.dumps([config, who], sort_keys=True)
        if key not in self._known:
            try:
                self._known[key] = self._compare(config, run)
            except (UserError, ImportError, AttributeError, KeyError, CompositionError):
                self._known[key] = Beyond()  # of another package, or of settings that this version does not take
        return self._known[key]

    def _compare(self, config: Mapping[str, Any], run: Run) -> Beyond:
        own, usual = self._own_names(config), self._usual(config)
        named = [f"{group}={config[group]['name']}" for group in CHOSEN if config[group]["name"] != own[group]]
        now = OmegaConf.merge(usual, OmegaConf.create({**config, "seed": run.seed}))
        assert isinstance(now, DictConfig)
        recorded = _of_the_identity(run.identity, config["dataset"])
        if "weights" in run.identity["backbone"]:  # by their content, wherever they lie now
            now.backbone.weights = run.identity["backbone"]["weights"]
        meant = usual.copy()
        meant.protocol.merge_with(config["protocol"])  # what a method takes from its protocol is no setting of its own
        differing = _differences(recorded, _expected(meant))
        plain = _differences(recorded, _expected(usual))
        composed: Any = OmegaConf.to_container(usual, resolve=True)
        theirs, ours = (
            {key: canonical(value) for group in GROUPS for key, value in flat(blocks[group], group).items()}
            for blocks in (config, composed)
        )
        shown = [key for key in differing if not key.startswith("protocol.")]
        shown += [key for key in plain if key.startswith("protocol.")]
        if any(key.startswith("method.") and key not in differing for key in plain):
            changed = [key for key, value in theirs.items() if value != ours.get(key, value)]
            shown += [key for key in changed if key.startswith("protocol.")]
        # What the identity lacks is ignored by the method, or has a value that says nothing.
        shown = [key for key in dict.fromkeys(shown) if key in recorded or theirs.get(key) != ours.get(key)]
        words = {key: _word(key, recorded[key] if key in recorded else theirs.get(key)) for key in shown}
        group_words = {"data": ("dataset.",), "recipe": ("backbone.", "protocol."), "method": ("method.", "sampler.")}
        of = {name: [words[key] for key in shown if key.startswith(start)] for name, start in group_words.items()}
        sampler = [word for word in named if word.startswith("sampler=")]
        if sampler:
            of["method"] = [word for word in of["method"] if not word.startswith("sampler.")]
        variant = [f"variant={run.identity['variant']}"] if run.identity.get("variant") else []
        return Beyond(
            tuple(of["data"]),
            tuple([word for word in named if word not in sampler] + of["recipe"]),
            tuple(sampler + of["method"] + variant),
            int(usual.protocol.epochs),
            _of_decision(identity(build(now), run.split)) != _of_decision(run.identity),
        )

    def _own_names(self, config: Mapping[str, Any]) -> dict[str, str]:
        """What the data set and the method choose of the other groups; what is recorded where they are unknown here."""
        return {
            group: (self._option(by, config[by]["name"]) if self._knows(by, config) else config)[group]["name"]
            for by, groups in CHOOSES.items()
            for group in groups
        }

    def _usual(self, config: Mapping[str, Any]) -> DictConfig:
        """What the recorded options of all groups compose to; of those that are unknown here what is recorded."""
        usual = self._option("dataset", config["dataset"]["name"]).copy()
        of_method = self._option("method", config["method"]["name"])
        usual.method, usual.sampler = of_method.method.copy(), of_method.sampler.copy()
        for group in GROUPS:
            name = config[group]["name"]
            if usual[group].name != name:
                usual[group] = self._option(group, name)[group].copy() if self._knows(group, config) else config[group]
        for key in ("imbalance_ratio", *NOT_OF_THE_DATA):  # these have a column of their own, or decide nothing
            if key in config["dataset"]:
                usual.dataset[key] = config["dataset"][key]
        return usual

    def _knows(self, group: str, config: Mapping[str, Any]) -> bool:
        return config[group]["name"] in self._tree.options(group)

    def _option(self, group: str, name: str) -> DictConfig:
        if name not in self._tree.options(group):
            group, name = "dataset", "digits_lt"
        if (group, name) not in self._options:
            config = self._tree.compose([self._tree.parse(f"{group}={name}")]).config
            OmegaConf.set_struct(config, value=False)
            self._options[group, name] = config
        return self._options[group, name]


def _expected(config: DictConfig) -> dict[str, Any]:
    """The flat identity of a run of ``config``."""
    typed = build(config)
    dataset = OmegaConf.to_container(config.dataset, resolve=True)
    assert isinstance(dataset, dict)
    return _of_the_identity(identity(typed, ""), {str(name): value for name, value in dataset.items()})


def _of_the_identity(who: Mapping[str, Any], dataset: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys of an identity, without seed and content of the data, and of a data set's block."""
    blocks = {name: part for name, part in who.items() if name in ("method", "sampler", "backbone", "protocol")}
    return {key: canonical(value) for key, value in flat(blocks).items()} | {
        f"dataset.{key}": canonical(value) for key, value in dataset.items() if key not in NOT_OF_THE_DATA
    }


def _differences(recorded: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """Keys of which the record says something else. A key of the data that came after the record says nothing."""
    keys = [key for key in expected.keys() | recorded.keys() if key in recorded or not key.startswith("dataset.")]
    return [
        key
        for key in sorted(keys)
        if recorded.get(key) != expected.get(key) and key.rpartition(".")[2] not in IN_A_COLUMN
    ]


def _of_decision(who: Mapping[str, Any]) -> dict[str, Any]:
    """An identity without its seed and how the data are normalised, which may have been measured."""
    return {name: part for name, part in who.items() if name not in ("seed", "dataset")}


def _word(key: str, value: Any) -> str:
    key = "delta" if key == "method.delta" else key
    text = json.dumps(value) if value is None or isinstance(value, bool | list) else f"{value}"
    return f"{key}={text.replace(' ', '')}"
