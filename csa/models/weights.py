"""Initial weights."""

from __future__ import annotations

from torch import nn


def kaiming_normal(network: nn.Module) -> None:
    """Kaiming normal (fan-in) weights in every convolution and linear layer; biases keep torch's default."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
