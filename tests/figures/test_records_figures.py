"""Figures drawn from records: what they show, and that the same records give the same bytes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from miniature_records import compose, from_records, make, stored_runs, write

from csa.config.faults import UserError
from csa.figures import class_accuracy, counts, curves, delta, delta_curve, per_class, reliability
from csa.figures.drawing import Wish, draw, drawn_from_records
from csa.figures.points import drawn_from_points, packed
from csa.figures.representation import (
    LABEL_HEIGHT,
    LABEL_WIDTH,
    Cloud,
    Representation,
    apart,
    in_two_dimensions,
    sample,
    shown_classes,
)
from csa.figures.store import model_runs, panels
from csa.figures.style import COLOURS, LINES, MARKERS, WIDTH, files, style
from csa.reporting.fitting import fitting
from csa.reporting.page import Drawn
from csa.reporting.sources import from_folders
from csa.training.metrics import calibration_error


@pytest.fixture(scope="module")
def shown():
    """Panels of the stored records."""
    with fitting() as judge:
        return panels(stored_runs(), judge)


def test_panels_hold_plain_settings_of_whole_runs(shown):
    found = {panel.name: {method: len(runs) for method, runs in panel.methods.items()} for panel in shown}
    assert found == {
        "Fashion-LT, ratio 100, LeNet, 8 epochs": {"CE": 1},
        "MNIST-LT, ratio 100, LeNet, 8 epochs": {"CB-RS": 2, "CE": 5, "cRT": 5, "CSA": 3},
    }
    with fitting() as judge:
        reduced = panels(stored_runs(), judge, reduced=True, methods=("ce",), dataset="mnist_lt")
    assert [panel.name.rpartition(", ")[2] for panel in reduced] == ["2 epochs", "8 epochs"]


def test_the_same_records_give_the_same_bytes_in_any_order():
    runs = stored_runs()
    first, second = (drawn_from_records(order) for order in (runs, runs[::-1]))
    assert [drawn.name for drawn in first] == ["figure4", "per_class", "curves", "counts"]
    assert [drawn.files for drawn in first] == [drawn.files for drawn in second]
    for drawn in first:
        assert drawn.files["png"].startswith(b"\x89PNG")
        assert b"<dc:date>" not in drawn.files["svg"]
        assert b"Matplotlib" not in drawn.files["png"]


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("figure4", "Figure 4"),
        ("figure2_mnist_lt", "Figure 2, MNIST-LT"),
        ("delta", "Delta"),
        ("delta_cifar10_lt", "Delta, CIFAR-10-LT"),
        ("per_class", "Per class"),
        ("per_class_mine", "Per class, mine"),
    ],
)
def test_a_figure_is_called_by_its_number_and_data_set(name, title):
    assert Drawn(name, "", "", {}).title == title


def test_figure_4_shows_means_and_deviations(shown):
    (panel,) = [panel for panel in shown if "MNIST" in panel.name]
    with style():
        figure = class_accuracy.draw([panel])
    axes = figure.axes[0]
    runs = panel.methods["CE"]
    expected = np.array([run.result["heads"]["classifier"]["last"]["per_class"] for run in runs])
    assert axes.get_title(loc="left").endswith("; collapsed: CSA 1 of 3")
    place = list(panel.methods).index("CE")
    heights = [bar.get_height() for bar in axes.containers[2 * place + 1]]
    assert heights == pytest.approx(list(expected.mean(0)))
    assert figure.get_figwidth() == WIDTH
    assert "%" in axes.get_ylabel()


def test_whiskers_stay_within_percentages():
    assert class_accuracy._whiskers([0.0, 90.0]) == pytest.approx((45.0, 55.0))
    assert class_accuracy._whiskers([50.0]) == (0.0, 0.0)


def with_networks(folder, *wanted):
    """Runs as handmade folders with a checkpoint; each is (hash of its images, method, words)."""
    runs = {}
    for images, method, *words in wanted:
        record = make(folder / images, "cifar100_lt", method, 0, *words)
        (record.folder / "checkpoint.pt").touch()
        (run,) = [run for run in from_folders(folder / images) if run.folder == record.folder]
        own = run.identity | {"dataset": run.identity["dataset"] | {"split": images}}
        runs[images, method, *words] = replace(run, identity=own)
    return runs


@pytest.mark.parametrize("backwards", [False, True])
def test_networks_of_one_figure_have_plain_settings_and_the_same_images(tmp_path, backwards):
    plain = [("ir100", "csa"), ("ir100", "ce")]
    others = [
        ("ir100", "csa", "method.bank=false"),
        ("ir100", "csa", "delta=0.3"),
        ("ir100", "csa", "delta=0.9"),
        ("ir100", "ce", "protocol.epochs=10"),
        ("ir10", "csa", "dataset.imbalance_ratio=10"),
        ("ir10", "ce", "dataset.imbalance_ratio=10"),
    ]
    other_backbone = [("ir100", "csa", "backbone=resnet10"), ("ir100", "ce", "backbone=resnet10")]
    runs = with_networks(tmp_path, *plain, *others, *other_backbone)
    given = list(runs.values())[:: -1 if backwards else 1]

    def chosen(methods, without=other_backbone, ratio=None):
        left = [run for run in given if run not in [runs[key] for key in without]]
        with fitting() as judge:
            found = model_runs(left, judge, "cifar100_lt", methods, 0, ratio)
        return [key for run in found for key in runs if runs[key] is run]

    assert chosen(("csa", "ce"), without=()) == plain
    assert chosen(("ce",), without=()) == [("ir100", "ce")]
    assert chosen(("csa", "ce"), without=plain[1:] + others) == other_backbone  # never of two backbones
    # The shortened run rather than none, but whole ones of another ratio before it.
    assert chosen(("ce",), without=[*other_backbone, ("ir100", "ce")]) == [("ir10", "ce", "dataset.imbalance_ratio=10")]
    ir10 = [key for key in others if key[0] == "ir10"]
    assert chosen(("ce",), without=[*other_backbone, ("ir100", "ce"), *ir10]) == [("ir100", "ce", "protocol.epochs=10")]
    assert chosen(("csa", "ce"), ratio=10) == ir10
    # Never networks of different images side by side.
    ir100_ce = [("ir100", "ce"), ("ir100", "ce", "protocol.epochs=10"), *other_backbone]
    assert chosen(("csa", "ce"), without=ir100_ce) == ir10
    with pytest.raises(UserError) as error:
        chosen(("csa", "ce"), without=[*ir100_ce, ("ir10", "csa", "dataset.imbalance_ratio=10")])
    assert str(error.value) == (
        "methods=ce: no run of it with the images and the backbone of csa (seed 0) has a checkpoint here; allowed: "
        "python -m csa.run dataset=cifar100_lt method=ce seed=0 dataset.imbalance_ratio=100 backbone=resnet32"
    )


@pytest.mark.parametrize(
    ("words", "mark"), [((), ""), (("protocol.epochs=2",), "is shortened: epochs 2 instead of 8.")]
)
def test_a_figure_of_kept_points_says_what_is_shortened(tmp_path, words, mark):
    make(tmp_path / "runs", "mnist_lt", "ce", 0, *words)
    (run,) = from_folders(tmp_path / "runs")
    cloud = Cloud("CE, training set", np.arange(20.0).reshape(10, 2), np.arange(10))
    shown = Representation([[cloud, cloud]], list(range(10)), [str(k) for k in range(10)], "feature")
    (tmp_path / "points").mkdir()
    (tmp_path / "points" / "figure2_mnist_lt.npz").write_bytes(packed(shown, "What it is.", [run.fingerprint]))
    with fitting() as judge:
        whole, all_of_them = (list(drawn_from_points(tmp_path, [run], judge, reduced=one)) for one in (False, True))
    assert len(whole) == (0 if mark else 1)
    assert [drawn.caption for drawn in all_of_them] == [
        f"What it is. {run.fingerprint} {mark}" if mark else "What it is."
    ]


def test_a_figure_of_records_names_methods_that_have_none():
    with pytest.raises(UserError, match="methods=crtt: no run of such a method is recorded; did you mean"):
        draw(Wish("4", "mnist_lt", ("ce", "crtt")), compose("dataset=mnist_lt"), stored_runs(), Path("nowhere"))


def test_curves_are_the_recorded_ones(shown):
    (panel,) = [panel for panel in shown if "Fashion" in panel.name]
    with style():
        figure = curves.draw([panel])
    (line,) = figure.axes[0].get_lines()
    recorded = [step["heads"]["classifier"]["all"] for step in panel.methods["CE"][0].evidence.metrics()]
    assert list(line.get_ydata()) == pytest.approx(recorded)
    assert list(line.get_xdata()) == list(range(1, 9))


def test_a_head_that_training_did_not_evaluate_has_no_curve():
    """As after tau-normalisation: its head is computed from a finished run."""
    ours, *others = [run for run in stored_runs() if run.method == "csa" and run.dataset == "mnist_lt"]
    result = ours.result | {"head": "corrected", "heads": {"corrected": ours.result["heads"]["uniform"]}}
    runs = [replace(ours, result=result, fingerprint="c" * 12), *others]
    drawn = {drawn.name: drawn.fingerprints for drawn in drawn_from_records(runs)}
    assert set(drawn["curves"]) == {run.fingerprint for run in others}
    assert set(drawn["per_class"]) == {run.fingerprint for run in runs}


def test_accuracy_over_frequency(shown):
    (panel,) = [panel for panel in shown if "Fashion" in panel.name]
    with style():
        figure = per_class.draw([panel])
    (line,) = figure.axes[0].get_lines()
    run = panel.methods["CE"][0]
    assert list(line.get_xdata()) == run.result["split"]["counts"]
    assert list(line.get_ydata()) == run.result["heads"]["classifier"]["last"]["per_class"]
    assert per_class.smoothed([0.0, 10.0, 20.0]) == [10.0, 10.0, 10.0]


def test_class_counts(shown):
    with style():
        figure = counts.draw([counts.Counts("three", [5, 50, 500], {"many": [2], "medium": [1], "few": [0]})])
    heights = [bar.get_height() for container in figure.axes[0].containers for bar in container]
    assert heights == [500, 50, 5]
    assert figure.axes[0].get_title(loc="left") == "three: 555 images of 3 classes"


def test_the_delta_curve_of_the_paper_and_of_another_data_set(tmp_path):
    for seed, threshold in ((0, 0.2), (1, 0.2), (0, 0.8)):
        write(tmp_path, "mnist_lt", "csa", seed, f"delta={threshold}")
    with fitting() as judge:
        measured, runs, name = delta.points(stored_runs(), judge, "", reduced=False)
        others, _, _ = delta.points(list(from_records(tmp_path)), judge, "mnist_lt", reduced=False)
    assert [point.delta for point in measured] == [round(0.1 * step, 1) for step in range(10)]
    assert [len(point.last) for point in measured] == [0, 0, 0, 3, 0, 0, 0, 0, 0, 0]
    assert measured[8].published == 45.83
    assert name.startswith("CIFAR-100-LT")
    assert len(runs) == 3
    assert [(point.delta, len(point.best), point.published) for point in others] == [(0.2, 2, None), (0.8, 1, None)]
    with style():
        assert isinstance(delta_curve.draw(others, name), Figure)


@given(st.lists(st.tuples(st.floats(-8, 8), st.floats(-8, 8), st.floats(-8, 8)), min_size=1, max_size=30))
def test_the_calibration_of_the_diagram_is_the_recorded_one(rows):
    confidence, predicted = torch.tensor(rows, dtype=torch.float64).softmax(1).max(1)
    right = (predicted == torch.arange(len(rows)) % 3).numpy()
    mean, share, sizes = reliability.binned(confidence.numpy(), right)
    found = (sizes * np.abs(mean - share)).sum() / len(rows)
    assert found == pytest.approx(calibration_error(confidence.numpy(), right), abs=1e-12)


def test_reliability_needs_logits(tmp_path):
    make(tmp_path, "mnist_lt", "ce", 0)
    (run,) = from_folders(tmp_path)
    confidence, right = reliability.confidences(run)
    sure = float(np.exp(2) / (np.exp(2) + 9))
    assert confidence == pytest.approx(np.full(40, sure))
    assert 100 * right.mean() == run.result["heads"]["classifier"]["last"]["all"]


def test_looks_are_told_apart_without_colour():
    assert len(set(COLOURS)) == len(COLOURS) == 8
    assert len({(MARKERS[place], LINES[place % len(LINES)]) for place in range(8)}) == 8


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=10))
def test_labels_do_not_cover_each_other(places):
    moved = apart(np.array(places))
    assert np.array_equal(moved[:, 0], np.array(places)[:, 0])
    for first in range(len(moved)):
        for second in range(first):
            x, y = np.abs(moved[first] - moved[second])
            assert x >= LABEL_WIDTH or y >= LABEL_HEIGHT - 1e-3


def test_classes_and_images_that_are_shown():
    assert shown_classes([5, 3, 9]) == [2, 0, 1]
    assert len(shown_classes(range(100, 0, -1))) == 10
    assert shown_classes(range(100, 0, -1))[::9] == [0, 99]
    assert sample(np.array([1, 0, 1, 1, 0]), [1, 0], most=2).tolist() == [0, 2, 1, 4]


def test_two_dimensional_features_stay_what_they_are():
    parts = [np.random.RandomState(0).rand(5, 2), np.ones((3, 2))]
    assert all(np.array_equal(a, b) for a, b in zip(in_two_dimensions(parts), parts, strict=True))
    wide = [np.random.RandomState(seed).rand(20, 6).astype(np.float32) for seed in (0, 1)]
    flat = in_two_dimensions(wide)
    assert [part.shape for part in flat] == [(20, 2), (20, 2)]
    assert np.array_equal(flat[1], in_two_dimensions(wide)[1])


def test_a_dollar_sign_in_a_name_is_a_dollar_sign():
    with style():
        figure = counts.draw([counts.Counts("$x_1 & <b>", [3, 2], {"many": [0], "medium": [], "few": [1]})])
        assert b"<svg" in files(figure)["svg"]


def test_cmnist_is_shown_with_flipped_labels_and_colours_that_follow_them(tmp_path):
    write(tmp_path, "cmnist_lt", "ce", 0)
    write(tmp_path, "cmnist_lt", "ce", 1, "dataset.label_flip=0")
    (run, _) = runs = sorted(from_records(tmp_path), key=lambda run: run.seed)
    assert run.identity["corrections"] == ["colours follow flipped labels"]
    old = replace(run, identity={key: part for key, part in run.identity.items() if key != "corrections"})
    with fitting() as judge:
        (panel,) = panels([*runs, old], judge)
    assert panel.name == "CMNIST-LT, ratio 100, 25 % of labels flipped, LeNet, 8 epochs"
    assert panel.runs == [run]
