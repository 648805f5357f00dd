"""Configurations as a command would have them: composed once, plain values set on what is there."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import chain, cycle

from csa.config.composer import Composer
from csa.config.composition import Tree
from csa.config.locations import conf_dir, shipped
from csa.config.schema import Config

LIES_AT = {"npz": ["dataset.path=x"], "image_folder": ["dataset.path=x"], "list_files": ["dataset.root=x"]}
"""What must be said of a data set of the user's own."""


@cache
def tree_of(config_name: str) -> Tree:
    return Tree(config_name)


@cache
def composer_of(tree: Tree) -> Composer:
    return Composer(tree)


def composer() -> Composer:
    return composer_of(tree_of("config"))


def config_of(*words: str) -> Config:
    """Raises UserError with every fault."""
    known = composer()
    return known.checked([known.tree.parse(word) for word in words]).config


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (conf_dir() / group).glob("[!_]*.yaml"))


def of_every_option() -> Iterator[list[str]]:
    """The words of sound runs, one of each method, in which every option of ``conf/`` has its turn."""
    of_files = {name for name in options("dataset") if "unreadable" in shipped("dataset", name)}
    datasets = chain(options("dataset"), cycle(sorted({*options("dataset")} - {*of_files, *LIES_AT})))
    samplers = cycle(name for name in options("sampler") if name != "none")
    protocols, backbones, trackers = (cycle(options(group)) for group in ("protocol", "backbone", "tracking"))
    for method, dataset in zip(options("method"), datasets, strict=False):
        chosen = {"dataset": dataset, "method": method, "backbone": next(backbones), "tracking": next(trackers)}
        if dataset not in of_files:  # theirs crop images of all sizes
            chosen["protocol"] = next(protocols)
        if shipped("method", method)["streams"] == "sampler":
            chosen["sampler"] = next(samplers)
        yield [*(f"{group}={option}" for group, option in chosen.items()), *LIES_AT.get(dataset, [])]
