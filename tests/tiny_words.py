"""The words of a run of seconds."""

from __future__ import annotations

TINY = (
    "protocol.epochs=2",
    "protocol.batch_size=16",
    "dataset.max_per_class=12",
    "dataset.imbalance_ratio=4",
    "dataset.test_per_class=5",
    "runtime.device=cpu",
    "runtime.threads=1",
    "runtime.progress=false",
    "tracking=none",
)
"""A run of seconds on scikit-learn's digits."""
