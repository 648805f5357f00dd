"""Runs side by side: those of one cell (data, backbone, protocol), by method and its settings."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from csa.reporting.names import printed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from csa.reporting.runs import Run

OF_THE_CELL = ("dataset", "backbone", "protocol", "results_version")
SHOWN_OF_A_HASH = 8


def same_cells(runs: Sequence[Run]) -> Iterator[tuple[str, dict[str, list[Run]]]]:
    """Name of each cell, and its runs by variant, each list by seed."""
    cells: dict[str, list[Run]] = {}
    for run in runs:
        key = json.dumps({name: run.identity.get(name) for name in OF_THE_CELL}, sort_keys=True)
        cells.setdefault(key, []).append(run)
    named = [(cell_name(group[0]), group) for group in sorted(cells.values(), key=lambda group: _order(group[0]))]
    names = [name for name, _ in named]
    for name, group in named:
        suffix = f", subset {group[0].split[:SHOWN_OF_A_HASH]}" if names.count(name) > 1 else ""
        yield name + suffix, variants(group)


def _order(run: Run) -> tuple[Any, ...]:
    """By data set, the highest ratio first, unflipped labels before flipped ones; then by what else there is."""
    dataset = run.config["dataset"]
    return run.dataset, -dataset["imbalance_ratio"], dataset.get("label_flip") or 0, cell_name(run), run.split


def cell_name(run: Run) -> str:
    """``CIFAR-100-LT, ratio 100, ResNet-32, 200 epochs``."""
    dataset, protocol = run.config["dataset"], run.identity["protocol"]
    parts = [printed(run.dataset)]
    if dataset.get("profile") in ("exp", "step"):
        parts.append(f"ratio {dataset['imbalance_ratio']:g}")
    if dataset.get("label_flip"):
        parts.append(f"{100 * dataset['label_flip']:g} % of labels flipped")
    parts += [printed(run.identity["backbone"]["name"]), f"{protocol['epochs']} epochs"]
    return ", ".join(parts)


def variants(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """By method; a method with several settings by those that differ too: ``csa delta=0.3``."""
    methods: dict[str, list[Run]] = {}
    for run in runs:
        methods.setdefault(run.method, []).append(run)
    found: dict[str, list[Run]] = {}
    for method in sorted(methods):
        settings = [_settings(run) for run in methods[method]]
        keys = sorted({key for one in settings for key in one})
        varying = [key for key in keys if len({json.dumps(one.get(key)) for one in settings}) > 1]
        for run, one in zip(methods[method], settings, strict=True):
            label = " ".join([method, *(f"{key}={one[key]}" for key in varying if key in one)])
            found.setdefault(label, []).append(run)
    return {label: sorted(group, key=lambda run: run.seed) for label, group in sorted(found.items())}


def _settings(run: Run) -> dict[str, Any]:
    """Of method and sampler, and the free label."""
    sampler = {f"sampler.{key}": value for key, value in run.identity.get("sampler", {}).items()}
    return {**run.identity["method"], **sampler, "variant": run.identity["variant"]}
