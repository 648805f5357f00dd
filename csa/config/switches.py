"""Switch points scale with the length of training; pure functions of the protocol, no torch.

They are given at the protocol's reference length: a start in epoch 10 of 200 is one in epoch 0 of 10.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from csa.config.schema import MethodConfig, ProtocolConfig

    AnyMethod = TypeVar("AnyMethod", bound=MethodConfig)


def scaled(reference_value: int, protocol: ProtocolConfig) -> int:
    """An epoch (or number of epochs) given at the reference length, at this length, rounded down."""
    return reference_value * protocol.epochs // protocol.reference_epochs


def window(reference_value: int, protocol: ProtocolConfig) -> int:
    """Length of a window at the start or the end of training: scaled, at least one epoch; 0 stays 0 (no window)."""
    return max(1, scaled(reference_value, protocol)) if reference_value else 0


def resolved(method: AnyMethod, protocol: ProtocolConfig) -> AnyMethod:
    """The method's settings with every null that stands for a number of the protocol filled in.

    A field says so in its metadata: ``when_null``, a function of the protocol.
    """
    filled = {
        field.name: field.metadata["when_null"](protocol)
        for field in fields(method)
        if "when_null" in field.metadata and getattr(method, field.name) is None
    }
    return replace(method, **filled)
