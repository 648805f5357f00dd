"""Plans without a process of their own, and records that say how far their runs are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from tiny_words import TINY
from whole_records import CONFIG, LINE, whole_names, whole_result, whole_split

from csa.config.cells import apply, expand
from csa.config.composition import Tree
from csa.config.words import SMOKE_WORDS
from csa.data.long_tail import groups_by_rank
from csa.sweep.plan import Plan, PlannedRun, make_plan

KNOWN: dict[str, str] = {}
COUNTS = (12, 10, 8, 7, 6, 5, 4, 4, 3, 3)  # of the tiny words
SMOKE = ("smoke=true", *SMOKE_WORDS)


def plan_of(output_root: Path, *words: str, name: str = "config", tiny: tuple[str, ...] = TINY) -> Plan:
    """As ``-m`` or ``-cn name`` with these words would plan it."""
    memory = output_root / "splits.json"  # of the data's hashes; reading the data takes longer than planning
    output_root.mkdir(exist_ok=True)
    memory.write_text(json.dumps(KNOWN))
    try:
        return _plan_of(output_root, words, name, tiny)
    finally:
        KNOWN.update(json.loads(memory.read_text()))


def _plan_of(output_root: Path, words: tuple[str, ...], name: str, tiny: tuple[str, ...]) -> Plan:
    tree = Tree(name)
    cells = expand(tree.compose([]).cells)
    every = [*tiny, f"output_root={output_root}", *words]
    return make_plan(tree, apply(cells, [tree.parse(word) for word in every]), fetch=False)


def begin(run: PlannedRun, epochs: int = 0) -> None:
    """Interrupted after so many epochs."""
    run.record.begin(CONFIG, run.identity, run.fingerprint)
    run.record.write_metrics([{**LINE, "epoch": epoch} for epoch in range(epochs)])


def finish(run: PlannedRun, epochs: int = 2, accuracy: float = 50.0) -> None:
    begin(run, epochs)
    names = whole_names(dataset=run.config.dataset.name, method=run.config.method.name, seed=run.config.seed)
    groups = groups_by_rank(COUNTS, run.config.dataset.groups).as_lists()
    result = whole_result(
        accuracy, classes=len(COUNTS), run=names, split=whole_split(COUNTS, by_rank=groups),
        seconds=2.5 * epochs, training_seconds=2.0 * epochs,
    )  # fmt: skip
    run.record.finish(result, {"labels": np.zeros(1, dtype=np.int32)})


def fail(run: PlannedRun, why: str = "the loss is not finite") -> None:
    begin(run)
    run.record.fail({"reason": why})
