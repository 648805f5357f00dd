"""Configurations as a command would have them: composed once, plain values set on what is there."""

from __future__ import annotations

from functools import cache

from csa.config.composer import Composer
from csa.config.composition import Tree
from csa.config.schema import Config


@cache
def composer() -> Composer:
    return Composer(Tree("config"))


def config_of(*words: str) -> Config:
    """Raises UserError with every fault."""
    known = composer()
    return known.checked([known.tree.parse(word) for word in words]).config
