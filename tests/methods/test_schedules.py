from __future__ import annotations

from dataclasses import replace

import pytest
from composed import config_of

from csa.methods.stages import cosine, learning_rate, training_stage

CIFAR = config_of("dataset=cifar100_lt").protocol


def rates(epochs: int, **changes) -> list[float]:
    lr = learning_rate(replace(CIFAR, epochs=epochs, **changes))
    return [lr(epoch) for epoch in range(epochs)]


def test_the_papers_schedule():
    at = rates(200)
    assert at[:6] == pytest.approx([0.04, 0.08, 0.12, 0.16, 0.2, 0.2])
    assert [at[e] for e in (4, 159, 160, 179, 180, 199)] == pytest.approx([0.2, 0.2, 0.02, 0.02, 0.002, 0.002])


def test_other_papers_schedules():
    ldam = rates(200, lr=0.1, factors=[0.01, 0.0001])
    assert [ldam[e] for e in (0, 4, 159, 160, 179, 180)] == pytest.approx([0.02, 0.1, 0.1, 1e-3, 1e-3, 1e-5])


def test_switch_points_scale_with_the_length():
    assert rates(10) == pytest.approx([0.1] + [0.2] * 7 + [0.02, 0.002])
    assert rates(8) == pytest.approx([0.1] + [0.2] * 5 + [0.02, 0.002])
    assert rates(400)[:10] == pytest.approx([0.02 * e for e in range(1, 11)])


@pytest.mark.parametrize(
    ("epochs", "first"),
    [(2, (0.1, 0.002)), (39, (0.1, 0.2)), (79, (0.1, 0.2)), (80, (0.1, 0.2)), (120, (0.2 / 3, 0.4 / 3, 0.2))],
)
def test_a_shortened_run_keeps_an_epoch_of_warm_up(epochs, first):
    assert rates(epochs)[: len(first)] == pytest.approx(first)
    assert rates(epochs, warmup_epochs=0)[0] == 0.2


def test_cosine():
    published = [0.1, 0.09755, 0.09045, 0.07939, 0.06545, 0.05, 0.03455, 0.02061, 0.00955, 0.00245]
    assert [cosine(0.1, 10)(epoch) for epoch in range(10)] == pytest.approx(published, abs=5e-6)
    assert rates(10, schedule="cosine", lr=0.1, warmup_epochs=0) == pytest.approx(published, abs=5e-6)
    assert rates(40, schedule="cosine")[:2] == pytest.approx([0.1, 0.1 * 1.9969173], rel=1e-6)


def test_the_mnist_schedule_is_the_cosine_set_after_each_epoch():
    lr = learning_rate(config_of("dataset=mnist_lt").protocol)
    assert [lr(epoch) for epoch in (0, 4, 7)] == pytest.approx([0.1, 0.05, 0.0038060], abs=1e-7)


def test_constant():
    assert rates(3, schedule="constant", warmup_epochs=0) == [0.2, 0.2, 0.2]


# --- published protocols --------------------------------------------------------------------


def published(name: str, epochs: int | None = None):
    words = [] if epochs is None else [f"protocol.epochs={epochs}"]
    protocol = config_of("dataset=cifar10_lt", f"protocol={name}", *words).protocol
    return protocol, learning_rate(protocol)


RATES = {
    "cifar": {0: 0.04, 4: 0.2, 159: 0.2, 160: 0.02, 180: 0.002},
    "cifar_ldam": {0: 0.02, 4: 0.1, 159: 0.1, 160: 1e-3, 179: 1e-3, 180: 1e-5},
    "cifar_mislas": {0: 0.02, 4: 0.1, 159: 0.1, 160: 0.01, 180: 1e-3},
    "cifar_bbn": {0: 0.1 / 3, 1: 0.1 * 7 / 15, 5: 0.1, 119: 0.1, 120: 1e-3, 159: 1e-3, 160: 1e-5},
    "cifar_bot": {0: 0.1 / 3, 4: 0.1 * 13 / 15, 5: 0.1, 159: 0.1, 160: 1e-3, 180: 1e-5},
    "cifar_cb": {0: 0, 0.5: 0.01, 4: 0.08, 5: 0.1, 159: 0.1, 160: 1e-3, 180: 1e-5},
    "cifar_remix": {0: 0.02, 5: 0.1, 149: 0.1, 150: 0.01, 249: 0.01, 250: 1e-3, 299: 1e-3},
}


@pytest.mark.parametrize("name", RATES)
def test_published_rates(name):
    protocol, lr = published(name)
    assert {epoch: lr(epoch) for epoch in RATES[name]} == pytest.approx(RATES[name], rel=1e-6)
    assert (protocol.epochs, protocol.batch_size, protocol.momentum, protocol.weight_decay) == (
        300 if name == "cifar_remix" else 200,
        128,
        0.9,
        2e-4,
    )
    assert protocol.nesterov == protocol.drop_last == (name in ("cifar_bbn", "cifar_bot"))
    assert protocol.warmup_each_step == (name == "cifar_cb")


@pytest.mark.parametrize("name", RATES)
def test_published_rates_in_ten_epochs(name):
    """Milestones scale, of the warm-up of 5 epochs one is left."""
    protocol, lr = published(name, 10)
    drops = {"cifar_bbn": (6, 8), "cifar_remix": (5, 8)}.get(name, (8, 9))
    first = {"cifar_cb": 0.0, "cifar_bbn": 1 / 3, "cifar_bot": 1 / 3}.get(name, 0.5)
    shares = [first] + [1.0] * (drops[0] - 1)
    shares += [protocol.factors[0]] * (drops[1] - drops[0]) + [protocol.factors[1]] * (10 - drops[1])
    assert [lr(epoch) for epoch in range(10)] == pytest.approx([protocol.lr * share for share in shares])


def test_behind_a_warm_up_by_steps_whole_epochs_count():
    protocol, _ = published("cifar_cb")
    lr = learning_rate(replace(protocol, schedule="cosine"))
    assert lr(7.5) == lr(7)
    assert lr(2.5) == pytest.approx(0.05)
    stage = training_stage(protocol)
    assert stage.lr_each_step
    assert not training_stage(CIFAR).lr_each_step
