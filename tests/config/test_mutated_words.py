"""Whatever is typed: a configuration or a list of faults, never another exception. A fixed seed; nothing is run."""

from __future__ import annotations

import random

import pytest
from composed import tree_of

from csa.config.cells import apply, expand
from csa.config.composition import left_to_cells
from csa.config.faults import UserError
from csa.request import configure, preflight
from csa.sweep.plan import make_plan

KEYS = (
    *("method", "protocol", "seed", "protocol.lr", "variant", "dataset.groups", "dataset.profile", "download"),
    *("protocol.stage_two", "hydra.sweeper", "hydra/launcher", "hydra.mode", "runtime", "tracking.uri", "cells"),
)
VALUES = (
    *("", "null", "???", "*", "''", "0x10", "1e400", "nan", "99999999999999999999", "010", "1_0", "é", "\n", "a b"),
    *("${nope}", "${oc.env:NOPE}", "${seed}", "${hydra:job.name}", "${", "{name:csa}", "{}", "[]", "[1,{a:b}]", "]"),
    *("range(1,3)", "range(0)", "choice()", "int(3.5)", "bool(3)", "extend_list(1)", "shuffle(1,2)", "sort(b,a)"),
    *("tag(a,1)", "interval(0,1)", "glob(*)", "0,...,1", "0,1,...,3", ",", "published", "'", "&a", "!!python/name:x"),
)
PREFIXES = ("", "", "", "+", "++", "~", "+~", "@")
SIGNS = "=,.$*'\"[]{}():@~+-/\\ %#x0"


def words_of(generator: random.Random) -> list[str]:
    words = []
    for _ in range(generator.choice((1, 1, 2))):
        word = f"{generator.choice(PREFIXES)}{generator.choice(KEYS)}={generator.choice(VALUES)}"
        if generator.random() < 0.3:
            place = generator.randrange(len(word) + 1)
            word = word[:place] + generator.choice(SIGNS) + word[place + generator.randrange(2) :]
        words.append(word)
    return words


def told(command, *how, **more) -> int:
    """Number of faults; every one can be printed."""
    try:
        command(*how, **more)
    except UserError as error:
        return len([str(fault) for fault in error.faults])
    return 0


def sweep(words: list[str]) -> None:
    """As ``-m`` reads them: judged, then every cell composed."""
    request = preflight(words, multirun=True)
    assert request.composed.sweeper
    tree = tree_of("config")
    every = [tree.parse(word) for word in left_to_cells(request.words)]
    make_plan(tree, apply(expand(request.composed.cells), every)[:3], fetch=False)


def run(words: list[str]) -> None:
    request = preflight(words)
    tree = tree_of("config")
    tree.compose([tree.parse(word) for word in request.composed.words])


@pytest.mark.parametrize("seed", range(2))
def test_mutated_words(seed):
    generator = random.Random(seed)
    outcomes = [
        told(command, words_of(generator), **more)
        for command, more in 4 * [(run, {}), (sweep, {}), (configure, {"extra": {"format": ("table", "json")}})]
    ]
    assert any(outcomes)


@pytest.mark.parametrize(
    "word",
    [
        *("dataset.cache=*", "dataset.label_flip=${nope}", "dataset.unreadable={name:csa}", "dataset.resize=0x10"),
        *("method=range(1,3)", "method=int(3.5)", "method=extend_list(1)", "~runtime", "hydra.sweeper=3"),
        *("seed=${seed}", "delta=${method.delta}"),
    ],
)
def test_words_that_ended_in_a_traceback(word):
    data = ["dataset=list_files", "dataset.root=x"] if word.startswith("dataset") and "flip" not in word else []
    assert told(run, [*data, word])
    assert told(sweep, [*data, word])
    assert told(configure, [*data, word])
