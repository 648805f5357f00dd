"""Optimisers, rates of layers, clipping, and the average of the weights."""

from __future__ import annotations

import pytest
import torch
from composed import config_of
from lightning_fabric import Fabric
from recorded_runs import start
from torch.nn import functional as F

from csa.config.faults import UserError
from csa.data.batch import Batch
from csa.data.dataset import load_split
from csa.methods.method import Clock, build_method
from csa.training import checkpoint
from csa.training.batch_norm import batch_statistics
from csa.training.distributed import ProcessGroup
from csa.training.loop import train_step
from csa.training.machine import Machine
from csa.training.optimisation import make_optimiser
from csa.training.recorded import load_method, scores_on
from csa.training.state import TrainState

FINE = ("protocol.optimizer=adamw", "protocol.layer_decay=0.5", "protocol.clip_norm=0.5", "protocol.ema=0.9")


def method_of(*words: str, side: int = 8):
    config = config_of("method=ce", *words)
    return build_method(config, (1, side, side), (0.5,), (0.5,), (8, 4, 2)), config


def batch(seed: int = 0) -> Batch:
    draw = torch.Generator().manual_seed(seed)
    return Batch(torch.rand(6, 1, 8, 8, generator=draw), torch.randint(3, (6,), generator=draw))


class OneBatch:
    """An epoch whose steps all have this batch."""

    sizes, weights = (6,), (1.0,)

    def batches(self, _):
        return {"train": batch()}


def steps(method, config, number: int) -> TrainState:
    return more_steps(fresh(method, config), number)


def fresh(method, config) -> TrainState:
    machine = Machine(torch.device("cpu"), "fp32", 1, 0, Fabric(accelerator="cpu"), ProcessGroup(), "eager")
    state = TrainState(method, config.protocol, machine)
    state.begin_updates(0)
    return state


def more_steps(state: TrainState, number: int) -> TrainState:
    state.method.train()
    for _ in range(number):
        train_step(state, OneBatch(), 0, {}, Clock(0, 0, 1))
    return state


@pytest.mark.parametrize(
    "words", [(), ("protocol.optimizer=adamw", "protocol.momentum=0.8", "protocol.weight_decay=0.1")]
)
def test_steps_are_those_of_torch_s_own_optimiser(words):
    method, config = method_of(*words, "protocol.lr=0.01")
    plain, _ = method_of(*words)
    steps(method, config, 3)
    if words:
        own = torch.optim.AdamW(plain.parameters(), 0.01, (0.8, 0.999), weight_decay=0.1)
    else:
        own = torch.optim.SGD(plain.parameters(), 0.01, 0.9, weight_decay=5e-4)
    plain.train()
    for _ in range(3):
        own.zero_grad()
        F.cross_entropy(plain.outputs(batch().images), batch().labels).backward()
        own.step()
    for mine, theirs in zip(method.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)


def test_each_layer_has_its_rate_and_the_heads_that_of_the_protocol():
    method, config = method_of("protocol.layer_decay=0.5", "backbone=resnet10", "method=focal", side=16)
    optimiser = make_optimiser(method, 0, config.protocol)
    rates = {p: group["lr_factor"] for group in optimiser.param_groups for p in group["params"]}
    decays = {p: group["weight_decay"] for group in optimiser.param_groups for p in group["params"]}
    found = {name: rates[p] for name, p in method.named_parameters()}
    assert len(rates) == len(list(method.parameters()))
    assert {rate for name, rate in found.items() if name.startswith("head")} == {1.0}
    # stem.0 (convolution), stem.1 (batch-norm), stages.0 to 3
    for depth, layer in enumerate(("stages.3", "stages.2", "stages.1", "stages.0", "stem.1", "stem.0"), 1):
        assert {rate for name, rate in found.items() if name.startswith(f"backbone.{layer}.")} == {0.5**depth}
    assert [name for name, p in method.named_parameters() if decays[p] == 0] == [
        "head.bias"
    ]  # a group of its own still


def test_what_is_frozen_is_not_in_the_optimiser():
    method, config = method_of("backbone=timm", "backbone.model=test_efficientnet", "backbone.frozen=all")
    optimiser = make_optimiser(method, 0, config.protocol)
    assert [p for group in optimiser.param_groups for p in group["params"]] == list(method.head.parameters())


def test_gradients_are_scaled_down_to_the_norm():
    method, config = method_of(
        "protocol.clip_norm=0.01", "protocol.lr=1", "protocol.momentum=0", "protocol.weight_decay=0"
    )
    before = [p.detach().clone() for p in method.parameters()]
    steps(method, config, 1)
    moved = torch.cat([(p.detach() - b).flatten() for p, b in zip(method.parameters(), before, strict=True)])
    assert float(moved.norm()) == pytest.approx(0.01, rel=1e-3)


def test_the_average_follows_the_weights_and_stands_for_them_when_asked():
    method, config = method_of("protocol.lr=0.1", "protocol.ema=0.5")
    state = fresh(method, config)
    average = state.average
    averaged = [*method.parameters(), *batch_statistics(method)]
    expected = [value.detach().clone() for value in averaged]
    for number in range(1, 8):
        more_steps(state, 1)
        decay = min(0.5, (1 + number) / (10 + number))
        expected = [decay * old + (1 - decay) * new.detach() for old, new in zip(expected, averaged, strict=True)]
    own = [value.detach().clone() for value in averaged]
    torch.testing.assert_close(average.values, expected)
    assert all(a is not b for a, b in zip(average.averaged_statistics, batch_statistics(method), strict=True))
    with average.in_place():
        torch.testing.assert_close([value.detach() for value in averaged], expected)
    assert all(torch.equal(a, b) for a, b in zip(own, averaged, strict=True))
    average.adopt()
    torch.testing.assert_close([value.detach() for value in averaged], expected)
    assert not torch.equal(own[0], expected[0])


def test_the_average_is_what_is_evaluated_and_kept(configuration):
    config = configuration("method=crt", *FINE)
    record = start(config)
    state = checkpoint.load(record.checkpoint)
    method, _ = load_method(record.folder)
    kept = state["average"][0]["values"]
    trained = [*method.head.parameters(), *batch_statistics(method)]  # of stage two
    assert all(torch.equal(a, b) for a, b in zip(kept, trained, strict=True))
    recorded = record.result["heads"]["classifier"]["last"]
    split = load_split(config.dataset, config.data_dir, download=False)
    scores, _ = scores_on(record.folder, split.test_images, split.test_labels, config.runtime)
    assert scores["classifier"].as_dict() == recorded


# --- label smoothing --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ce", "csa", "balanced_softmax", "logit_adjustment"])
def test_labels_are_smoothed(name):
    method, _ = method_of(f"method={name}", "protocol.label_smoothing=0.3")
    data = batch()
    method.train()
    step = method({"train": data, "uniform": data}, {}, Clock(0, 0, 200))
    head = method.uniform_head if name == "csa" else method.head
    logits = head(method.backbone(data.images))
    if name != "csa" and name != "ce":
        logits = logits + torch.log(torch.tensor([8, 4, 2]) / 14)
    torch.testing.assert_close(step.loss, F.cross_entropy(logits, data.labels, label_smoothing=0.3))


def test_a_loss_that_is_no_cross_entropy_refuses():
    with pytest.raises(UserError, match=r"label_smoothing=0\.1: method=focal has a loss that it is not defined for"):
        method_of("method=focal", "protocol.label_smoothing=0.1")


def test_nesterov_is_sgd_s():
    with pytest.raises(UserError) as raised:
        config_of("protocol.nesterov=true", "protocol.optimizer=adamw")
    (fault,) = raised.value.faults
    assert str(fault) == "protocol.nesterov=true: is not of adamw; allowed: false, or protocol.optimizer=sgd"
