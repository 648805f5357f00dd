"""``smoke=true``: words that turn any run into one of a step or two on made-up data."""

from __future__ import annotations

VARIANT = "smoke"
WORDS = (
    f"variant={VARIANT}",
    "dataset.source=csa.data.sources.tiny.TinySource",
    "dataset.profile=balanced",
    "dataset.max_per_class=2",
    "dataset.cap=false",
    "protocol.epochs=2",
    "protocol.batch_size=100",
    "protocol.stage_two.epochs=1",
    "protocol.stage_two.scales_epochs=1",
)
"""Images of the data set's real shape and number of classes, so that backbones and heads are the real ones."""
