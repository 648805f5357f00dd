"""Switch points at the lengths 200, 10 and 8, and where a null stands for a number of the protocol."""

from __future__ import annotations

from dataclasses import replace

import pytest
from composed import config_of
from hypothesis import given
from hypothesis import strategies as st

from csa.config.schema import ProtocolConfig

CIFAR = config_of("dataset=cifar100_lt", "method=csa")
PROTOCOL, METHOD = CIFAR.protocol, CIFAR.method


def protocol_of(epochs: int, reference_epochs: int = 200) -> ProtocolConfig:
    return replace(PROTOCOL, epochs=epochs, reference_epochs=reference_epochs)


@pytest.mark.parametrize(
    ("epochs", "switches"),
    [(200, (10, 5, 160, 180)), (10, (0, 0, 8, 9)), (8, (0, 0, 6, 7)), (400, (20, 10, 320, 360))],
)
def test_scaled(epochs, switches):
    assert tuple(protocol_of(epochs).scaled(value) for value in (10, 5, 160, 180)) == switches


@pytest.mark.parametrize(("epochs", "length"), [(200, 3), (133, 1), (134, 2), (10, 1), (8, 1), (1, 1)])
def test_window(epochs, length):
    assert protocol_of(epochs).window(3) == length
    assert protocol_of(epochs).window(0) == 0


@given(st.integers(0, 500), st.integers(1, 1000), st.integers(1, 1000))
def test_scaled_is_the_floor_and_exact_at_the_reference_length(value, epochs, reference):
    protocol = protocol_of(epochs, reference)
    assert protocol.scaled(value) <= value * epochs / reference < protocol.scaled(value) + 1
    assert protocol_of(reference, reference).scaled(value) == value
    assert isinstance(protocol.scaled(value), int)


@pytest.mark.parametrize(("epochs", "filled"), [(200, (10, 128, 3)), (10, (0, 128, 1)), (8, (0, 128, 1))])
def test_resolved(epochs, filled):
    method = METHOD.resolved(protocol_of(epochs))
    assert (method.start_epoch, method.bank_size, method.mixup_off_epochs) == filled


def test_resolved_keeps_what_is_set():
    method = replace(METHOD, start_epoch=0, bank_size=7, mixup_off_epochs=0)
    assert method.resolved(protocol_of(200)) == method
