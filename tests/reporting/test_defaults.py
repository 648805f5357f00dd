"""What a run has beyond the defaults of its data set and method follows from what was recorded."""

from __future__ import annotations

import pytest
from miniature_records import from_records, retell, write

from csa.reporting.frame import frame_of


def frame(folder, dataset, method, *words):
    write(folder, dataset, method, 0, *words)
    return frame_of(from_records(folder))


@pytest.mark.parametrize(
    ("words", "settings", "recipe", "line"),
    [
        ((), "", "LeNet, 8 epochs", "CE"),
        (("delta=0.1",), "", "LeNet, 8 epochs", "CE"),  # ce has no delta
        (("protocol.epochs=2",), "protocol.epochs=2", "LeNet, 2 epochs", "CE"),
        (("protocol=cifar",), "protocol=cifar", "LeNet, cifar, 200 epochs", "CE"),
        (
            ("dataset.holdout=5", "protocol.lr=0.05"),
            "dataset.holdout=5 protocol.lr=0.05",
            "LeNet, 8 epochs, lr=0.05",
            "CE",
        ),
        (("dataset.imbalance_ratio=50",), "", "LeNet, 8 epochs", "CE"),
        (("sampler=square_root",), "sampler=square_root", "LeNet, 8 epochs", "CE, sampler=square_root"),
        (("variant=again",), "variant=again", "LeNet, 8 epochs", "CE, again"),
        (("backbone=resnet32",), "", "ResNet-32, 8 epochs", "CE"),
        (("dataset.groups=[2,4,4]",), "dataset.groups=[2,4,4]", "LeNet, 8 epochs", "CE"),
    ],
)
def test_of_one_method(tmp_path, words, settings, recipe, line):
    (found,) = frame(tmp_path, "mnist_lt", "ce", *words).itertuples()
    assert (found.settings, found.recipe, found.line) == (settings, recipe, line)
    assert found.shortened == ("protocol.epochs=2" in words)
    assert not found.outdated


@pytest.mark.parametrize(
    ("words", "settings"),
    [
        ((), ""),
        (("delta=0.8",), ""),
        (("delta=0.30000000000000004",), "delta=0.3"),
        # The start of CSA scales with the length: it is no setting of its own.
        (("protocol.epochs=20",), "protocol.epochs=20"),
        (("protocol.epochs=20", "method.start_epoch=0"), "protocol.epochs=20 method.start_epoch=0"),
        # Without the bank nothing that only it uses is told.
        (("method.bank=false",), "method.bank=false"),
        (("protocol.batch_size=64",), "protocol.batch_size=64"),
    ],
)
def test_settings_of_a_method(tmp_path, words, settings):
    assert set(frame(tmp_path, "cifar100_lt", "csa", *words)["settings"]) == {settings}


@pytest.mark.parametrize(
    ("words", "settings"),
    [
        (("dataset.imbalance_ratio=50",), ""),
        (("dataset.imbalance_ratio=50", "method.beta=0.9"), "method.beta=0.9"),
        (("method.beta=0.9",), ""),
    ],
)
def test_what_is_tuned_for_the_data_is_no_setting_of_its_own(tmp_path, words, settings):
    assert set(frame(tmp_path, "cifar100_lt", "cb_focal", *words)["settings"]) == {settings}


def test_what_a_method_takes_from_its_protocol_is_told_of_the_protocol(tmp_path):
    found = frame(tmp_path, "cifar10_lt", "crt", "protocol.stage_two.epochs=3")
    assert set(found["settings"]) == {"protocol.stage_two.epochs=3"}
    assert set(found["line"]) == {"cRT"}


def test_the_recipe_of_its_own_paper_is_a_recipe_of_its_own(tmp_path):
    write(tmp_path, "cifar10_lt", "ldam_drw", 0)
    found = frame(tmp_path, "cifar10_lt", "ldam_drw", "protocol=published")
    assert list(zip(found["recipe"], found["settings"], strict=True)) == [
        ("ResNet-32, 200 epochs", ""),
        ("ResNet-32, cifar_ldam, 200 epochs", "protocol=cifar_ldam"),
    ]


def test_results_of_another_version_are_outdated(tmp_path):
    path = write(tmp_path, "mnist_lt", "ce", 0)
    retell(path, {"results_version": 0}, {})
    assert list(frame_of(from_records(tmp_path))["outdated"]) == [True]


def test_runs_of_another_package_are_told_apart_by_what_was_recorded(tmp_path):
    """Nothing is known of its defaults here; its settings are never averaged."""
    for seed, smoothing in ((0, 0.1), (1, 0.1), (2, 0.2)):
        path = write(tmp_path, "mnist_lt", "ce", seed)
        method = {"name": "label_smoothing", "smoothing": smoothing}
        retell(path, {"method": method}, {"method": method | {"schema": "nowhere.Smoothing"}})
    found = frame_of(from_records(tmp_path))
    assert sorted(found["line"]) == ["label_smoothing (smoothing=0.1)"] * 2 + ["label_smoothing (smoothing=0.2)"]
    assert not found["outdated"].any()


def test_own_images_are_called_by_their_folder(tmp_path):
    path = write(tmp_path, "mnist_lt", "ce", 0)
    own = {"name": "image_folder", "path": "pets", "profile": "natural"}
    retell(path, {"dataset": {"name": "image_folder"}}, {"dataset": own})
    (found,) = frame_of(from_records(tmp_path)).itertuples()
    assert found.data == "pets (image_folder)"
    assert found.imbalance_ratio != found.imbalance_ratio  # there is none
