"""Which recorded runs belong into a cell: judged by what they were recorded with, not by what they are called.

The cell's command is composed as it would be run. A run fits when its record has the same settings in
everything but the seed. It is *reduced* when only its protocol, or which training images it takes,
differ (fewer epochs, another recipe, a holdout), the rest being what the command makes of that protocol.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from csa.config.composition import COMPOSITION_ERRORS, Composed, NotPublishedError, Tree, tree
from csa.config.faults import UserError
from csa.config.identity import identity
from csa.config.typed import build
from csa.reporting.published import OWN_RECIPE, Place
from csa.reporting.runs import canonical_block

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from csa.reporting.runs import Run

# Of a data set's block: where its images lie, and what the class of its block is, decide no result.
NOT_OF_THE_DATA = ("schema", "source", "path", "npz_name")
SUBSET = ("dataset.max_per_class", "dataset.cap", "dataset.split_seed", "dataset.holdout")
MOST_DIFFERENCES = 3


@dataclass(frozen=True)
class Fit:
    """reduced: how the run differs from the cell, in words; empty where it does not."""

    reduced: str = ""


class Fitting:
    """Compares runs with places; composes each place once."""

    def __init__(self, composer: Tree) -> None:
        self._composer = composer
        self._bases: dict[tuple[str, str, str, bool], Composed | None] = {}
        self._configs: dict[Place, DictConfig | None] = {}
        self._expected: dict[tuple[Place, str], dict[str, Any] | None] = {}
        self._fits: dict[tuple[Place, str], Fit | None] = {}

    def fit(self, place: Place, run: Run) -> Fit | None:
        """How the run belongs to the place, or None."""
        if run.dataset != place.dataset or run.method != place.method:
            return None
        key = (place, run.settings)
        if key not in self._fits:
            self._fits[key] = self._judge(place, run)
        return self._fits[key]

    def _judge(self, place: Place, run: Run) -> Fit | None:
        recorded = _recorded(run)
        plain = self._expectation(place, None)
        if plain is None:
            return None
        differences = _differences(recorded, plain)
        if not differences:
            return Fit()
        meant = self._expectation(place, run.config["protocol"])
        if meant is None or any(key not in SUBSET for key in _differences(recorded, meant)):
            return None
        names = run.config["protocol"]["name"], self._protocol_name(place)
        if names[0] != names[1] and names[0] in self._recipes(place):
            return None  # that recipe has a place of its own
        return Fit(_told(differences, *names))

    def _expectation(self, place: Place, protocol: Mapping[str, Any] | None) -> dict[str, Any] | None:
        """What a run of the place is recorded with, under its own or another protocol."""
        key = (place, json.dumps(protocol, sort_keys=True))
        if key not in self._expected:
            self._expected[key] = self._make_expectation(place, protocol)
        return self._expected[key]

    def _make_expectation(self, place: Place, protocol: Mapping[str, Any] | None) -> dict[str, Any] | None:
        config = self._config(place)
        if config is None:
            return None
        if protocol is not None:
            config = config.copy()
            OmegaConf.update(config, "protocol", protocol, merge=True)
        try:
            typed = build(config)
        except (UserError, *COMPOSITION_ERRORS):  # a protocol that this version does not take
            return None
        dataset = OmegaConf.to_container(config.dataset, resolve=True)
        assert isinstance(dataset, dict)
        return _flat(identity(typed, ""), {str(name): value for name, value in dataset.items()})

    def _recipes(self, place: Place) -> set[str]:
        """Recipes under which a method's runs stand in rows of their own: the data set's, and the method's own."""
        plain = replace(place, words=tuple(word for word in place.words if word != OWN_RECIPE))
        places = [plain, replace(plain, words=(*plain.words, OWN_RECIPE))]
        return {self._protocol_name(one) for one in places if self._config(one) is not None}

    def _protocol_name(self, place: Place) -> str:
        config = self._config(place)
        assert config is not None
        return str(config.protocol.name)

    def _config(self, place: Place) -> DictConfig | None:
        """The composed command of the place; None where this version has not what it names."""
        if place not in self._configs:
            self._configs[place] = self._compose(place)
        return self._configs[place]

    def _compose(self, place: Place) -> DictConfig | None:
        """Groups are composed once; the other words are values, set in what that gives."""
        own_recipe = OWN_RECIPE in place.words
        composed = self._base(place.dataset, place.method, place.backbone, own_recipe=own_recipe)
        if composed is None:
            return None
        words = [word for word in place.words if word != OWN_RECIPE]
        if place.imbalance_ratio is not None:
            words.append(f"dataset.imbalance_ratio={place.imbalance_ratio:g}")
        try:
            for word in map(self._composer.parse, words):
                composed = composed.with_value(word)
        except COMPOSITION_ERRORS:
            return None
        return composed.config

    def _base(self, dataset: str, method: str, backbone: str, *, own_recipe: bool) -> Composed | None:
        key = (dataset, method, backbone, own_recipe)
        if key not in self._bases:
            groups = {"dataset": dataset, "method": method, **({"backbone": backbone} if backbone else {})}
            words = [f"{group}={option}" for group, option in groups.items()] + [OWN_RECIPE] * own_recipe
            known = all(option in self._composer.options(group) for group, option in groups.items())
            composed = self._composed(words) if known else None
            if composed and own_recipe:
                plain = self._base(dataset, method, backbone, own_recipe=False)
                if plain and plain.config.protocol.name == composed.config.protocol.name:
                    composed = None  # the data set's recipe is the method's own: no second row
            self._bases[key] = composed
        return self._bases[key]

    def _composed(self, words: list[str]) -> Composed | None:
        try:
            return self._composer.compose([self._composer.parse(word) for word in words])
        except NotPublishedError:
            return None


@contextmanager
def fitting() -> Iterator[Fitting]:
    with tree("config") as composer:
        yield Fitting(composer)


def _recorded(run: Run) -> dict[str, Any]:
    return _flat(run.identity, run.config["dataset"])


def _flat(who: Mapping[str, Any], dataset: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys of an identity, without seed and content of the data, and of a data set's block."""
    blocks = {name: part for name, part in who.items() if name not in ("seed", "dataset")}
    blocks["dataset"] = canonical_block({key: value for key, value in dataset.items() if key not in NOT_OF_THE_DATA})
    flat: dict[str, Any] = {}
    for name, part in blocks.items():
        if isinstance(part, dict):
            flat |= {f"{name}.{key}": value for key, value in part.items()}
        else:
            flat[name] = part
    return flat


def _differences(recorded: Mapping[str, Any], expected: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Keys of which the record says something else. A key of the data that came after the record says nothing."""
    keys = [key for key in expected.keys() | recorded.keys() if key in recorded or not key.startswith("dataset.")]
    pairs = {key: (recorded.get(key), expected.get(key)) for key in sorted(keys)}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def _told(differences: Mapping[str, tuple[Any, Any]], protocol: str, usual: str) -> str:
    """``epochs 10 instead of 200``; another recipe by its name."""
    told = []
    if protocol != usual:
        told.append(f"protocol {protocol} instead of {usual}")
    of_interest = {
        key: pair
        for key, pair in differences.items()
        if key in SUBSET or (key.startswith("protocol.") and (protocol == usual or key == "protocol.epochs"))
    }
    for key, (recorded, expected) in of_interest.items():
        told.append(f"{key.removeprefix('protocol.')} {recorded} instead of {expected}")
    more = len(told) - MOST_DIFFERENCES
    return ", ".join(told[:MOST_DIFFERENCES]) + (f" and {more} more" if more > 0 else "")
