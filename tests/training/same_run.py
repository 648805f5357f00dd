"""What a run leaves, without its times, and whether two runs left the same, bit for bit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from csa.training import checkpoint

if TYPE_CHECKING:
    from csa.tracking.record import Record

TIMES = ("seconds", "evaluation_seconds")


def contents(record: Record) -> dict[str, Any]:
    """All that a run leaves, without the times."""
    state = checkpoint.load(record.checkpoint)
    lines = [{key: value for key, value in line.items() if key not in TIMES} for line in record.metrics()]
    outputs = np.load(record.folder / "test_outputs.npz")
    result = record.result
    return {
        "weights": state["method"],
        "momentum": state["optimiser"]["state"],
        "average": [value for own in state.get("average", []) for value in (own["count"], *own["values"])],
        "lines": lines,
        "outputs": {name: outputs[name].tobytes() for name in outputs},
        "heads": result["heads"],
        "chosen": result.get("chosen"),
    }


def assert_same(first: dict[str, Any], second: dict[str, Any]) -> None:
    assert first["weights"].keys() == second["weights"].keys()
    for name, value in first["weights"].items():
        assert torch.equal(value, second["weights"][name]), name
    assert first["momentum"].keys() == second["momentum"].keys()
    for name, state in first["momentum"].items():
        assert all(torch.equal(value, second["momentum"][name][key]) for key, value in state.items()), name
    for mine, other in zip(first["average"], second["average"], strict=True):
        assert torch.equal(mine, other)
    assert first["lines"] == second["lines"]
    assert first["outputs"] == second["outputs"]
    assert first["heads"] == second["heads"]
    assert first["chosen"] == second["chosen"]
