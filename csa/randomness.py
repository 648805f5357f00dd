"""Randomness with an address.

Every random number of a run is drawn from a generator whose seed is the hash of its address:
(run seed, purpose, stage, epoch, ...). Adding a method or a purpose therefore moves no other
number, and an epoch can be replayed without those before it, which is what makes resuming exact.
"""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch


def seed_at(seed: int, *address: str | int) -> int:
    """63-bit seed of the generator at ``address``; the same on every machine and version."""
    text = "/".join([str(seed), *map(str, address)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def numpy_generator(seed: int, *address: str | int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed_at(seed, *address)))


def torch_generator(seed: int, *address: str | int) -> torch.Generator:
    """A generator on the CPU: draws are made there for a whole epoch, so devices agree on them."""
    import torch

    return torch.Generator().manual_seed(seed_at(seed, *address))


@contextmanager
def initialised_at(seed: int, *address: str | int) -> Iterator[None]:
    """Within it, modules draw their initial weights at ``address``; torch's global state is untouched."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_at(seed, *address))
        yield
