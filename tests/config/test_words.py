"""``0,0.1,...,0.9``: the row is filled in, or the fault says why it is none."""

from __future__ import annotations

import pytest

from csa.config.faults import UserError
from csa.config.words import written_out


@pytest.mark.parametrize(
    ("word", "whole"),
    [
        ("delta=0,0.1,...,0.9", "delta=0,0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9"),
        ("seed=0,1,...,4", "seed=0,1,2,3,4"),
        ("seed=4,3,...,0", "seed=4,3,2,1,0"),
        ("method=ce,csa", "method=ce,csa"),
        ("dataset=mnist_lt", "dataset=mnist_lt"),
    ],
)
def test_rows(word, whole):
    assert written_out(word) == whole


@pytest.mark.parametrize(
    "word", ["delta=0,0.2,...,0.9", "delta=0,0.1,0.3,...,0.9", "delta=0,...,0.9", "delta=a,b,...,c"]
)
def test_what_is_no_row_is_a_fault(word):
    with pytest.raises(UserError) as caught:
        written_out(word)
    assert [fault.key for fault in caught.value.faults] == ["delta"]
