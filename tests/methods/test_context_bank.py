from __future__ import annotations

from collections import deque

import pytest
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
    images, masks = bank.images[slots], bank.masks[slots]
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
        assert bank.known <= int(bank.count)
        bank.look()
        assert bank.known == int(bank.count) == len(model)


@given(size=st.integers(1, 6), held=st.integers(0, 6), sizes=st.lists(st.integers(1, 8), min_size=1, max_size=5))
def test_contexts_are_drawn_from_what_it_holds(size: int, held: int, sizes: list[int]):
    """As many as the batch has images, no entry twice where there is room; with replacement from a smaller bank."""
    bank = ContextBank(size, (2, 3, 3))
    bank.push(*numbered(1, 6), torch.arange(6) < held)
    bank.look()
    orders = bank.orders(sizes, torch.Generator().manual_seed(0))
    assert orders.shape == (len(sizes), max(size, *sizes))
    for order, number in zip(orders, sizes, strict=True):
        assert bank.enough_for(number) == (min(held, size) >= min(number, size))
        if bank.enough_for(number):
            images, masks = bank.sample(order, number)
            assert torch.equal(images[:, :1], -masks)
            drawn = images[:, 1, 2, 0].int().tolist()
            assert len(drawn) == number
            assert set(drawn) <= set(oldest_first(bank))
            assert number > size or len(set(drawn)) == number


@pytest.mark.parametrize(("size", "held", "number", "choices"), [(4, 3, 2, 6), (4, 3, 3, 6), (2, 2, 3, 8)])
def test_every_choice_of_contexts_is_as_likely_as_another(size, held, number, choices):
    """In their order: 2 or 3 of 3 different ones, 3 of 2 with replacement."""
    bank = ContextBank(size, (2, 3, 3))
    bank.push(*numbered(0, held), torch.ones(held, dtype=torch.bool))
    orders = bank.orders([number] * 1200, torch.Generator().manual_seed(0))
    drawn = torch.stack([bank.sample(order, number)[0][:, 0, 0, 0] for order in orders])
    _, counts = drawn.unique(dim=0, return_counts=True)
    expected = 1200 / choices
    assert len(counts) == choices
    assert float(((counts - expected) ** 2).sum() / expected) < 20.5  # chi-squared: 0.5 % or less by chance


def test_emptied_it_starts_again_but_for_having_lent():
    bank = ContextBank(2, (2, 3, 3))
    bank.push(*numbered(1, 3), torch.tensor([True, True, True]))
    assert not bank.look()
    bank.sample(torch.tensor([1, 0]), 2)
    assert bank.look()
    bank.empty()
    assert bank.known == 0
    assert bank.look()
    bank.push(*numbered(7, 2), torch.tensor([False, True]))
    assert oldest_first(bank) == [8]


def test_what_is_known_of_it_follows_a_loaded_state():
    full, fresh = ContextBank(2, (2, 3, 3)), ContextBank(2, (2, 3, 3))
    empty = {name: value.clone() for name, value in fresh.state_dict().items()}
    full.push(*numbered(1, 2), torch.tensor([True, True]))
    outer = torch.nn.ModuleDict({"bank": fresh})
    outer.load_state_dict({f"bank.{name}": value for name, value in full.state_dict().items()})
    assert fresh.known == 2
    assert oldest_first(fresh) == [1, 2]
    fresh.load_state_dict(empty)
    assert fresh.known == 0
