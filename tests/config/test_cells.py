"""A union of small grids, restricted and extended by the words of the command line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csa.config.cells import Cell, apply, expand, quoted, swept_keys
from csa.config.composition import Tree
from csa.config.faults import UserError

KEYS = st.sampled_from(["seed", "delta", "method", "protocol.lr"])
VALUES = st.lists(st.integers(0, 9), min_size=1, max_size=4, unique=True)
GRIDS = st.lists(st.dictionaries(KEYS, VALUES, min_size=1), min_size=1, max_size=3)


def words(cells: list[Cell]) -> list[str]:
    return [" ".join(cell.words) for cell in cells]


def applied(grids, *typed: str) -> list[str]:
    tree = Tree("config")
    return words(apply(expand(grids), [tree.parse(word) for word in typed]))


@given(GRIDS)
def test_a_grid_is_a_product_and_grids_are_a_union(grids):
    cells = expand(grids)
    sizes = []
    for grid in grids:
        size = 1
        for values in grid.values():
            size *= len(values)
        sizes.append(size)
    assert len(cells) == sum(sizes)
    for start, size, grid in zip([sum(sizes[:at]) for at in range(len(sizes))], sizes, grids, strict=True):
        own = cells[start : start + size]
        assert len({cell.settings for cell in own}) == size
        for cell in own:
            assert {key: int(value) in grid[key] for key, value in cell.settings} == dict.fromkeys(grid, True)


@given(st.lists(st.tuples(st.integers(), st.integers()), min_size=1, max_size=5), VALUES)
def test_zipped_keys_go_together(pairs, seeds):
    grid = {"zip": {"method": [one for one, _ in pairs], "protocol.lr": [other for _, other in pairs]}, "seed": seeds}
    expected = [(str(one), str(other), str(seed)) for seed in seeds for one, other in pairs]
    got = [tuple(dict(cell.settings)[key] for key in ("method", "protocol.lr", "seed")) for cell in expand([grid])]
    assert sorted(got) == sorted(expected)


def test_dots_are_filled_in():
    cells = expand([{"delta": "0, 0.1, ..., 0.3"}, {"delta": [0.5, 0.6, "...", 0.8]}])
    assert words(cells) == [f"delta={value}" for value in ("0", "0.1", "0.2", "0.3", "0.5", "0.6", "0.7", "0.8")]


def test_blank_cells_are_marked():
    assert [cell.blank for cell in expand([{"seed": [0, 1]}, {"blank": True, "seed": 2}])] == [False, False, True]


def test_every_fault_of_the_grids_is_told():
    grids = [{"zip": {"seed": [0, 1], "delta": [0.1]}}, ["seed"], {"seed": []}, {"delta": "0, 0.1, 0.3, ..., 0.9"}]
    with pytest.raises(UserError) as told:
        expand(grids)
    assert [fault.key for fault in told.value.faults] == ["cells[0].zip", "cells[1]", "cells[2].seed", "cells[3].delta"]
    assert "seed has 2, delta has 1" in str(told.value)


PLAIN = st.one_of(
    st.integers(), st.booleans(), st.none(), st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(codec="ascii", categories=["L", "N", "P", "S", "Zs"]), max_size=12),
)  # fmt: skip


@given(st.one_of(PLAIN, st.lists(PLAIN, max_size=3)))
def test_a_value_is_written_so_that_hydra_reads_it_back(value):
    tree = Tree("config")
    assert tree.parse(f"variant={quoted(value)}").value() == value


# --- words of the command line --------------------------------------------------------------

TABLE = [{"method": ["ce", "csa"], "seed": [0, 1]}, {"method": "csa", "protocol.epochs": 100, "seed": [0, 1]}]


def test_a_value_of_the_sweep_restricts_it():
    assert applied(TABLE, "method=ce") == ["method=ce seed=0", "method=ce seed=1"]
    assert applied(TABLE, "method=ce", "seed=1") == ["method=ce seed=1"]


def test_another_value_takes_the_place_of_the_sweeps():
    assert applied(TABLE, "method=ce", "seed=5,6") == ["method=ce seed=5", "method=ce seed=6"]
    assert applied(TABLE, "seed=7") == [
        "method=ce seed=7",
        "method=csa seed=7",
        "method=csa protocol.epochs=100 seed=7",
    ]


def test_a_value_reaches_the_cells_that_do_not_have_its_key():
    got = applied(TABLE, "seed=0", "protocol.epochs=100")
    assert got == ["method=ce seed=0 protocol.epochs=100", "method=csa seed=0 protocol.epochs=100",
                   "method=csa protocol.epochs=100 seed=0"]  # fmt: skip


@pytest.mark.parametrize("word", ["delta=0.10", "delta=1e-1", "delta=0.1"])
def test_numbers_are_compared_as_numbers(word):
    assert applied([{"delta": [0, 0.1]}], word) == ["delta=0.1"]


def test_words_alone_are_one_grid():
    assert applied([], "seed=0,1", "method=choice(ce,csa)", "delta=0.5") == [
        f"seed={seed} method={method} delta=0.5" for seed in (0, 1) for method in ("ce", "csa")
    ]
    assert applied([], "seed=range(0,3)") == ["seed=0", "seed=1", "seed=2"]


@pytest.mark.parametrize("word", ["sweep.slots=1,2", "plan=true,false", "smoke=true,false"])
def test_the_sweep_itself_is_not_swept(word):
    with pytest.raises(UserError, match="is one for the whole sweep"):
        applied([], word)


def test_an_interval_is_for_a_search():
    with pytest.raises(UserError, match="-cn search"):
        applied([], "delta=interval(0,1)")


def test_what_says_how_the_sweep_is_run_is_no_part_of_its_cells():
    assert applied([{"seed": 0}], "sweep.slots=2", "plan=true", "hydra/launcher=ray") == ["seed=0"]


def test_swept_keys_are_those_that_differ():
    assert swept_keys(expand(TABLE)) == ["method", "seed", "protocol.epochs"]
    assert swept_keys(expand([{"seed": 0, "delta": 1}])) == []
