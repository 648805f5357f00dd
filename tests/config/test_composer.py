"""Configurations set value by value are those of Hydra's own composition."""

from __future__ import annotations

from composed import composer
from hypothesis import given, settings
from hypothesis import strategies as st

from csa.config.composer import Composer, build
from csa.config.composition import Tree
from csa.config.faults import UserError

WORDS = (
    "method=ce", "method=csa", "method=crt", "dataset=mnist_lt", "dataset=cifar100_lt", "protocol=cifar",
    "backbone=resnet10", "sampler=class_balanced", "delta=0.3", "delta=1", "seed=7", "protocol.epochs=5",
    "protocol.milestones=[2,4]", "protocol.factors=[0.1,0.1]", "dataset.imbalance_ratio=50", "variant='a b'",
    "data_dir='${output_root}/data'", "dataset.groups=[1,1,8]", "runtime.threads=3", "runtime.threads=null",
)  # fmt: skip
CELLS = st.lists(st.lists(st.sampled_from(WORDS), max_size=5, unique=True), min_size=2, max_size=4)


def outcome(make):
    try:
        return make()
    except UserError as error:
        return {str(fault) for fault in error.faults}


@settings(max_examples=6)
@given(CELLS)
def test_equal_to_a_full_composition(cells):
    """One after the other, so that nothing of an earlier cell may stay."""
    tree = composer().tree
    for words in cells:
        parsed = [tree.parse(word) for word in words]
        assert outcome(lambda parsed=parsed: composer().checked(parsed).config) == outcome(
            lambda parsed=parsed: build(tree.compose(parsed).config)
        ), words


WRONG = (
    *("dataset.foo=1", "delta=2", "method.bank=perhaps", "protocol.stage_two=3", "protocol.stage_two={lr:-1}"),
    *("dataset.groups.0=x", "dataset.groups.9=1", "delta=${nope}", "runtime=3", "seed.x=1"),
)


def test_a_mistake_in_one_cell_leaves_the_others():
    tree = Tree("config")
    fresh, seed = Composer(tree), tree.parse("seed=4")
    sound = build(tree.compose([seed]).config)
    for wrong in WRONG:
        (fault,) = fresh.checked([tree.parse(wrong), tree.parse("seed=3")]).faults
        assert wrong.startswith(fault.key.split(".")[0]), wrong
        assert fresh.checked([seed]).config == sound, wrong


def test_an_option_that_is_not_there_yet():
    tree = Tree("config")
    words = [tree.parse(word) for word in ("seed=1", "method=of_the_future")]
    assert Composer(tree).absent_option(words) == "method=of_the_future"
    assert Composer(tree).absent_option(words[:1]) == ""
