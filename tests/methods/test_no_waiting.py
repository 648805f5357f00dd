"""No step reads the device or has shapes that depend on values: fake tensors, which have none, pass through."""

from __future__ import annotations

import pytest
import torch
from tiny import random_batch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from csa.config.locations import conf_dir
from csa.methods.method import Clock

METHODS = sorted(path.stem for path in (conf_dir() / "method").glob("*.yaml") if not path.stem.startswith("csa"))
"""CSA reads whether its bank is full until it is (phase ``filling``)."""


def late_step(method, stage: int) -> None:
    clock = Clock(stage, method.stages[stage].epochs - 2, method.stages[stage].epochs)
    batches = {name: random_batch(n, image_shape=(1, 12, 12)) for n, name in enumerate(method.streams(clock))}
    rows = {name: row[0] for name, row in method.draws(clock, [6], torch.Generator().manual_seed(0)).items()}
    method.train_stage(stage)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        batches = {name: type(batch)(*map(mode.from_tensor, batch)) for name, batch in batches.items()}
        rows = {name: mode.from_tensor(row) for name, row in rows.items()}
        loss = method(batches, rows, clock).loss
        loss.backward()
    assert loss.shape == ()


@pytest.mark.parametrize("name", METHODS)
def test_a_step_needs_no_value(build, name):
    backbone = "resnet32" if name == "fsa" else "lenet"  # fsa needs one that ends in average pooling
    method = build("dataset=cifar10_lt", f"method={name}", f"backbone={backbone}", image_shape=(1, 12, 12))
    for stage, about in enumerate(method.stages):
        method.enter_stage(stage)
        if about.epochs:
            late_step(method, stage)


def test_a_step_that_reads_a_value_is_noticed(build, monkeypatch):
    method = build("method=ce", "backbone=lenet", image_shape=(1, 12, 12))
    monkeypatch.setattr(method.criterion, "per_image", lambda logits, labels: logits[:, 0] * logits.max().item())
    with pytest.raises(DataDependentOutputException):
        late_step(method, 0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", METHODS)
def test_a_step_does_not_wait_for_the_gpu(build, name):
    method = build("dataset=cifar10_lt", f"method={name}")
    for stage, about in enumerate(method.stages):
        method.enter_stage(stage)
        method.to("cuda")
        if not about.epochs:
            continue
        clock = Clock(stage, about.epochs - 2, about.epochs)
        batches = {
            key: type(batch)(*(part.to("cuda") for part in batch))
            for key, batch in ((key, random_batch(n)) for n, key in enumerate(method.streams(clock)))
        }
        rows = {key: row[0].to("cuda") for key, row in method.draws(clock, [6], torch.Generator()).items()}
        method.train_stage(stage)
        method(batches, rows, clock).loss.backward()  # libraries choose and load their kernels
        torch.cuda.set_sync_debug_mode("error")
        try:
            method(batches, rows, clock).loss.backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")
