"""Which runs belong into a cell follows from what was recorded."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from miniature_records import from_records, write

from csa.reporting.fitting import Fit, fitting
from csa.reporting.published import OWN_RECIPE, Place

MNIST = Place("ce", "mnist_lt", 100.0, "lenet")
CIFAR = Place("csa", "cifar100_lt", 100.0, "resnet32", ("delta=0.3",))


def fit(place, run):
    with fitting() as judge:
        return judge.fit(place, run)


def run(folder, dataset, method, *words):
    write(folder, dataset, method, 0, *words)
    (found,) = from_records(folder)
    return found


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), Fit("")),
        (("delta=0.1",), Fit("")),  # ce has no delta
        (("protocol.epochs=2",), Fit("epochs 2 instead of 8")),
        (("protocol=cifar",), Fit("protocol cifar instead of mnist, epochs 200 instead of 8")),
        (("dataset.holdout=5", "protocol.lr=0.05"), Fit("dataset.holdout 5 instead of 0, lr 0.05 instead of 0.1")),
        (("dataset.imbalance_ratio=50",), None),
        (("sampler=square_root",), None),
        (("variant=again",), None),
        (("dataset.groups=[2,4,4]",), None),
    ],
)
def test_of_one_method(tmp_path, words, expected):
    assert fit(MNIST, run(tmp_path, "mnist_lt", "ce", *words)) == expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("delta=0.3",), Fit("")),
        (("delta=0.30000000000000004",), Fit("")),
        (("delta=0.4",), None),
        # The start of CSA scales with the length: it is no difference of its own.
        (("delta=0.3", "protocol.epochs=20"), Fit("epochs 20 instead of 200")),
        (("delta=0.3", "protocol.epochs=20", "method.start_epoch=0"), None),
        (("delta=0.3", "method.bank=false"), None),
    ],
)
def test_with_words_of_its_own(tmp_path, words, expected):
    assert fit(CIFAR, run(tmp_path, "cifar100_lt", "csa", *words)) == expected


LDAM = Place("ldam_drw", "cifar10_lt", 100.0, "resnet32")


@pytest.mark.parametrize(
    ("words", "plain", "own"),
    [
        ((), Fit(""), None),
        (("protocol=published",), None, Fit("")),
        (("protocol=cifar_ldam",), None, Fit("")),
        (("protocol=published", "protocol.epochs=10"), None, Fit("epochs 10 instead of 200")),
        (("protocol.epochs=10",), Fit("epochs 10 instead of 200"), None),
        (
            ("protocol=cifar_bbn",),
            Fit("protocol cifar_bbn instead of cifar"),
            Fit("protocol cifar_bbn instead of cifar_ldam"),
        ),
    ],
)
def test_the_recipe_of_its_own_paper_is_a_place_of_its_own(tmp_path, words, plain, own):
    found = run(tmp_path, "cifar10_lt", "ldam_drw", *words)
    assert fit(LDAM, found) == plain
    assert fit(replace(LDAM, words=(OWN_RECIPE,)), found) == own


@pytest.mark.parametrize("method", ["csa", "lws_mixup", "balanced_softmax"])
def test_no_place_of_its_own_for_the_recipe_of_the_data_set_or_for_none(tmp_path, method):
    found = run(tmp_path, "mnist_lt", method)
    place = Place(method, "mnist_lt", 100.0, "lenet")
    assert fit(place, found) == Fit("")
    assert fit(replace(place, words=(OWN_RECIPE,)), found) is None


def test_results_of_another_version_do_not_count(tmp_path):
    path = write(tmp_path, "mnist_lt", "ce", 0)
    content = json.loads(path.read_text())
    content["identity"]["results_version"] = 0
    path.write_text(json.dumps(content))
    (found,) = from_records(tmp_path)
    assert fit(MNIST, found) is None


def test_what_this_version_has_not_fits_nothing(tmp_path):
    found = run(tmp_path, "mnist_lt", "ce")
    assert fit(Place("ce", "mnist_lt", 100.0, "no_such_net"), found) is None
