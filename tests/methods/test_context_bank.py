from __future__ import annotations

from collections import deque

import torch
from hypothesis import given
from hypothesis import strategies as st

from csa.methods.context_bank import ContextBank

pushes = st.lists(st.lists(st.booleans(), min_size=1, max_size=9), max_size=8)


def numbered(first: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images that carry their number, masks that carry its negative."""
    numbers = torch.arange(first, first + size, dtype=torch.float32).view(-1, 1, 1, 1)
    return numbers.expand(-1, 2, 3, 3), -numbers.expand(-1, 1, 3, 3)


def oldest_first(bank: ContextBank) -> list[int]:
    count = int(bank.count)
    slots = (bank.head - count + torch.arange(count)) % bank.size
    images, masks = bank.sample(slots)
    assert torch.equal(images[:, :1], -masks)
    assert images.shape == (count, 2, 3, 3)
    return images[:, 1, 2, 0].int().tolist()


@given(size=st.integers(1, 6), batches=pushes)
def test_behaves_like_a_queue(size: int, batches: list[list[bool]]):
    bank, model, number = ContextBank(size, (2, 3, 3)), deque(maxlen=size), 1
    for fitted in batches:
        bank.push(*numbered(number, len(fitted)), torch.tensor(fitted))
        model.extend(number + place for place, fits in enumerate(fitted) if fits)
        number += len(fitted)
        assert oldest_first(bank) == list(model)
        assert bool(bank.full) == bank.is_full() == (len(model) == size)


def test_emptied_it_starts_again():
    bank = ContextBank(2, (2, 3, 3))
    bank.push(*numbered(1, 3), torch.tensor([True, True, True]))
    assert bank.is_full()
    bank.empty()
    assert not bank.is_full()
    assert not bank.seen_full
    bank.push(*numbered(7, 2), torch.tensor([False, True]))
    assert oldest_first(bank) == [8]


def test_what_is_known_of_it_follows_a_loaded_state():
    full, fresh = ContextBank(2, (2, 3, 3)), ContextBank(2, (2, 3, 3))
    empty = {name: value.clone() for name, value in fresh.state_dict().items()}
    full.push(*numbered(1, 2), torch.tensor([True, True]))
    outer = torch.nn.ModuleDict({"bank": fresh})
    outer.load_state_dict({f"bank.{name}": value for name, value in full.state_dict().items()})
    assert fresh.seen_full
    assert oldest_first(fresh) == [1, 2]
    fresh.load_state_dict(empty)
    assert not fresh.seen_full
