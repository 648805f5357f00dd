"""Every option of ``conf/`` is composed, trained for a few steps on made-up images, and recorded."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from composed import config_of
from recorded_runs import start

from csa.config.words import SMOKE_WORDS

CONF = Path(__file__).parents[1] / "conf"
COMMON = (*SMOKE_WORDS, "tracking=none", "runtime.threads=1", "runtime.device=cpu", "runtime.progress=false")


def options(group: str, *without: str) -> list[str]:
    return sorted({path.stem for path in (CONF / group).glob("[!_]*.yaml")} - set(without))


LARGE = ("imagenet_lt", "places_lt", "inat18")
"""Their many classes would take minutes."""
DEEP = ("resnet152", "resnet152_last_block")
"""Settings of ``torchvision``."""
ONCE = ("protocol.epochs=1", "dataset.max_per_class=1")
ELSEWHERE = ("npz", "image_folder", "list_files", *LARGE)
FEW = ("dataset=imagenet_lt", "dataset.groups=[4,3,3]", "dataset.image_size=16")
CASES = [
    *((f"dataset={name}", "method=csa", *ONCE) for name in options("dataset", *ELSEWHERE)),
    *((f"dataset={name}", "method=csa", *ONCE, "dataset.groups=[4,3,3]", "backbone=resnet10") for name in LARGE),
    *((f"method={name}", "dataset=mnist_lt") for name in options("method", "fsa")),  # which needs average pooling
    *((f"method={name}", "dataset=cifar10_lt", *ONCE) for name in options("method", "fsa")),
    ("method=fsa", "dataset=cifar10_lt", *ONCE, "method.epochs=2"),
    *((f"sampler={name}", "method=ce", "dataset=mnist_lt") for name in options("sampler", "none")),
    *((f"backbone={name}", "method=ce", *FEW, *ONCE) for name in options("backbone", "resnet32", *DEEP)),
    *((f"protocol={name}", "method=ce", "dataset=mnist_lt") for name in options("protocol", "imagenet")),
]


@pytest.mark.parametrize("words", CASES, ids=" ".join)
def test_it_trains(words, tmp_path):
    record = start(config_of(*COMMON, f"output_root={tmp_path}", *words))
    assert record.state == "done"
    assert len(record.metrics()) == record.result["epochs"] > 0
    assert all(math.isfinite(line["loss"]) for line in record.metrics())
    for scores in record.result["heads"].values():
        assert 0 <= scores["last"]["all"] <= 100
