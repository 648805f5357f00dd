from __future__ import annotations

from dataclasses import replace

import pytest
from tiny import compose_config

from csa.methods.schedules import cosine, learning_rate

CIFAR = compose_config("dataset=cifar100_lt").protocol


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
    assert rates(10) == pytest.approx([0.2] * 8 + [0.02, 0.002])
    assert rates(8) == pytest.approx([0.2] * 6 + [0.02, 0.002])
    assert rates(400)[:10] == pytest.approx([0.02 * e for e in range(1, 11)])


def test_cosine():
    published = [0.1, 0.09755, 0.09045, 0.07939, 0.06545, 0.05, 0.03455, 0.02061, 0.00955, 0.00245]
    assert [cosine(0.1, 10)(epoch) for epoch in range(10)] == pytest.approx(published, abs=5e-6)
    assert rates(10, schedule="cosine", lr=0.1, warmup_epochs=0) == pytest.approx(published, abs=5e-6)
    assert rates(40, schedule="cosine")[:2] == pytest.approx([0.2, 0.1 * 1.9969173], rel=1e-6)


def test_the_mnist_schedule_is_the_cosine_set_after_each_epoch():
    lr = learning_rate(compose_config("dataset=mnist_lt").protocol)
    assert [lr(epoch) for epoch in (0, 4, 7)] == pytest.approx([0.1, 0.05, 0.0038060], abs=1e-7)


def test_constant():
    assert rates(3, schedule="constant", warmup_epochs=0) == [0.2, 0.2, 0.2]
