"""Figures drawn from records: what they show, and that the same records give the same bytes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from miniature_records import from_records, make, stored_runs, write

from csa.config.faults import UserError
from csa.figures import classes, results
from csa.figures.drawing import Wish, of_report
from csa.figures.drawing import from_records as drawn_from_records
from csa.figures.networks import model_runs, shown_classes
from csa.figures.panel import looks_of, panel
from csa.figures.representation import (
    LABEL_HEIGHT,
    LABEL_WIDTH,
    Cloud,
    Representation,
    apart,
    drawn_from_points,
    in_two_dimensions,
    packed,
    sample,
)
from csa.figures.style import COLOURS, LINES, MARKERS, WIDTH, canvas, files, style
from csa.metrics import PARTS, calibration_bins, calibration_error
from csa.reporting.frame import frame_of, one_head
from csa.reporting.layout import Drawn
from csa.reporting.sections import sections
from csa.tracking.finding import from_folders
from csa.tracking.run import Run


def panels(frame):
    return {section.name: panel(section, frame, looks_of(frame)) for section in sections(frame)}


@pytest.fixture(scope="module")
def frame():
    return frame_of(stored_runs())


@pytest.fixture(scope="module")
def shown(frame):
    """Panels of the stored records, by the name of their table."""
    return panels(frame)


MNIST, FASHION = "mnist_lt_ratio_100", "fashion_lt_ratio_100"


def test_panels_hold_the_lines_of_a_table(shown):
    assert {line.name: len(line.runs) for line in shown[MNIST].lines} == {
        "CE": 5, "CB-RS": 2, "cRT": 5, "CSA": 3, "CB-RS, <b>&amp; $x_1$|y": 1,
    }  # fmt: skip
    assert [line.label for line in shown[MNIST].lines][3] == "CSA (3, 1 collapsed)"
    assert shown[MNIST].seeds().startswith("Seeds: CE 0–4; CB-RS 0–1; ")  # noqa: RUF001
    assert shown[FASHION].seeds() == "Seed 0."
    assert {name for name in shown if name.startswith("mnist")} == {MNIST, "mnist_lt_ratio_100_lenet_2_epochs"}


def test_a_line_looks_the_same_everywhere(frame, shown):
    looks = looks_of(frame)
    assert shown[MNIST].lines[0].look == shown[FASHION].lines[0].look == looks["CE"]
    assert len({look["color"] for look in looks.values()}) == len(looks)


def test_the_same_records_give_the_same_bytes_in_any_order(frame):
    runs = [run for run in stored_runs() if run.dataset == "fashion_lt"]
    first, second = (of_report(one, sections(one)) for one in (frame_of(runs), frame_of(runs[::-1])))
    drawn, again = ([figure for section in found[0] for figure in section.figures] for found in (first, second))
    assert [one.kind for one in drawn] == ["per class", "curves", "confusion", "counts"]
    assert [one.files for one in drawn] == [one.files for one in again]
    for one in drawn:
        assert one.files["png"].startswith(b"\x89PNG")
        assert b"<dc:date>" not in one.files["svg"]
        assert b"Matplotlib" not in one.files["png"]
        assert one.section == FASHION
    assert first[1] == []  # Figure 4 needs MNIST-LT


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("figure4", "Figure 4"),
        ("figure2_mnist_lt", "Figure 2, MNIST-LT"),
        ("delta_cifar10_lt", "Delta, CIFAR-10-LT"),
        ("per_class_mine", "Per class, mine"),
    ],
)
def test_a_figure_is_called_by_its_number_and_data_set(name, title):
    assert Drawn(name, "", {}).title == title


def test_figure_4_shows_means_and_deviations(shown):
    one = shown[MNIST]
    with style():
        figure = classes.bars([one])
    axes = figure.axes[0]
    expected = np.array([run.scores()["per_class"] for run in one.lines[0].runs])
    heights = [bar.get_height() for bar in axes.containers[1]]
    assert heights == pytest.approx(list(expected.mean(0)))
    assert figure.get_figwidth() == WIDTH
    assert "%" in axes.get_ylabel()
    assert {"many", "medium", "few"} == {text.get_text() for text in axes.texts}


def test_whiskers_stay_within_percentages():
    assert classes.spread(np.array([[0.0], [90.0]])).tolist() == [[45.0], [45.0 + 10]]
    assert classes.spread(np.array([[50.0]])).tolist() == [[0.0], [0.0]]


def test_the_forest_shows_the_numbers_of_the_table(shown):
    one = shown[MNIST]
    with style():
        figure = results.forest(one)
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == [line.name for line in one.lines[1:]]
    marks = [container.lines[0].get_xdata()[0] for container in axes.containers]
    assert marks == pytest.approx(list(one.data["difference"])[1:])
    points = axes.collections[1].get_offsets()[:, 0]  # of cRT
    base = {run.seed: run.scores()["all"] for run in one.lines[0].runs}
    assert sorted(points) == pytest.approx(sorted(run.scores()["all"] - base[run.seed] for run in one.lines[2].runs))


PLAIN = [("ir100", "csa"), ("ir100", "ce")]
OTHERS = [
    ("ir100", "csa", "method.bank=false"),
    ("ir100", "csa", "delta=0.3"),
    ("ir100", "csa", "delta=0.9"),
    ("ir100", "ce", "protocol.epochs=10"),
    ("ir10", "csa", "dataset.imbalance_ratio=10"),
    ("ir10", "ce", "dataset.imbalance_ratio=10"),
]
OTHER_BACKBONE = [("ir100", "csa", "backbone=resnet10"), ("ir100", "ce", "backbone=resnet10")]


def with_networks(folder, *wanted):
    """Runs as handmade folders with a checkpoint; each is (hash of its images, method, words)."""
    runs = {}
    for images, method, *words in wanted:
        record = make(folder / images, "cifar100_lt", method, 0, *words)
        (record.folder / "checkpoint.pt").touch()
        run = Run(record.folder).checked()
        own = run.identity | {"dataset": run.identity["dataset"] | {"split": images}}
        run._who = {"fingerprint": run.fingerprint, "identity": own}
        runs[images, method, *words] = run
    return runs


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """Runs with networks, and the frame of all of them."""
    runs = with_networks(tmp_path_factory.mktemp("networks"), *PLAIN, *OTHERS, *OTHER_BACKBONE)
    return runs, one_head(frame_of(runs.values()))


@pytest.mark.parametrize("step", [1, -1])
def test_networks_of_one_figure_have_plain_settings_and_the_same_images(networks, step):
    plain, others, other_backbone = PLAIN, OTHERS, OTHER_BACKBONE
    runs, frame = networks

    def chosen(methods, without=other_backbone, ratio=None):
        left = frame[~frame["run"].isin([runs[key] for key in without])][::step]
        found = model_runs(left, "cifar100_lt", methods, 0, ratio)
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


@pytest.mark.parametrize(("words", "mark"), [((), ""), (("protocol.epochs=2",), "protocol.epochs=2.")])
def test_a_figure_of_kept_points_says_of_which_settings_it_is(tmp_path, words, mark):
    make(tmp_path / "runs", "mnist_lt", "ce", 0, *words)
    frame = frame_of(from_folders(tmp_path / "runs"))
    name = frame["fingerprint"].iloc[0]
    cloud = Cloud("CE, training set", np.arange(20.0).reshape(10, 2), np.arange(10))
    shown = Representation([[cloud, cloud]], list(range(10)), [str(k) for k in range(10)], "feature")
    (tmp_path / "points").mkdir()
    (tmp_path / "points" / "figure2_mnist_lt.npz").write_bytes(packed(shown, "What it is.", [name]))
    (drawn,) = drawn_from_points(tmp_path, frame)
    assert drawn.caption == (f"What it is. {name}: {mark}" if mark else "What it is.")


def test_a_figure_of_records_names_methods_that_have_none(frame):
    with pytest.raises(UserError, match="methods=crtt: no run of such a method is recorded; did you mean"):
        drawn_from_records(Wish("4", "mnist_lt", ("ce", "crtt")), frame)
    with pytest.raises(UserError, match=r"figure=delta: no recorded run can be shown in it; allowed: runs of CSA with"):
        drawn_from_records(Wish("delta"), frame)


def test_curves_are_the_recorded_ones(shown):
    with style():
        figure = results.curves(shown[FASHION])
    (line,) = figure.axes[0].get_lines()
    recorded = [step["heads"]["classifier"]["all"] for step in shown[FASHION].runs[0].metrics()]
    assert list(line.get_ydata()) == pytest.approx(recorded)
    assert list(line.get_xdata()) == list(range(1, 9))


def test_a_first_stage_that_two_lines_share_is_drawn_once():
    base = {(seed, "images"): [(1.0 + seed, 10.0), (0.2, 10.0), (0.1, 30.0)] for seed in range(3)}
    later = {(seed, "images"): [(1.0 + seed, 10.0), (0.2, 10.0), (0.3, 30.0), (0.2, 5.0)] for seed in range(1, 3)}
    assert results._shared(later, base) == 2  # whatever other seeds the first line has
    assert results._shared(base, later) == 0
    assert results._shared(base, base) == 3
    assert results._shared(later | {(2, "images"): [(9.0, 10.0), (0.2, 10.0)]}, base) == 0  # equal accuracies alone


def test_curves_begin_where_they_come_near_their_end():
    with style():
        axes = canvas(2)[1][0, 0]
    rising = np.array([[5.0, 10, 40, 50, 60, 61, 62, 63, 64, 64], [5.0, 10, 40, 50, 60, 61, 62, 63, 64, 66]])
    results._crop(axes, [rising, np.full((1, 4), 50.0)])
    assert axes.get_ylim() == (42.5, 67.5)  # ends from 50 to 65, half of that below, a tenth above the best seed
    assert axes.get_xlim() == (0.5, 10.5)  # the flat curve is in view from its first epoch on
    results._crop(axes, [rising])
    assert axes.get_ylim() == (63.5, 66.1)
    assert axes.get_xlim() == (8.5, 10.5)


def test_a_head_that_training_did_not_evaluate_has_no_curve(frame):
    """As after tau-normalisation: its head is computed from a finished run."""
    (ours, *_) = [run for run in frame["run"] if run.method == "csa" and run.dataset == "mnist_lt"]
    assert len(results.course(ours, "uniform")) == 8
    assert results.course(ours, "corrected") == []


def test_accuracy_of_each_class(shown):
    one = shown[FASHION]
    with style():
        figure = classes.per_class(one)
    (container,) = figure.axes[0].containers
    assert list(container.lines[0].get_ydata()) == one.runs[0].scores()["per_class"]
    assert classes.smoothed([0.0, 10.0, 20.0]) == [10.0, 10.0, 10.0]
    assert classes.smoothed([0.0, float("nan"), 20.0]) == [10.0, 10.0, 10.0]


def test_many_classes_are_shown_as_differences_to_the_baseline(tmp_path):
    for method, shares in (("ce", (0.9, 0.5, 0.1)), ("crt", (0.8, 0.6, 0.5))):
        write(tmp_path, "cifar100_lt", method, 0, shares=shares)
    (one,) = panels(frame_of(from_records(tmp_path))).values()
    with style():
        axes = classes.per_class(one).axes[0]
    ce, crt = (np.array(line.runs[0].scores()["per_class"]) for line in one.lines)
    assert list(axes.get_lines()[0].get_ydata()) == pytest.approx(classes.smoothed(list(crt - ce)))
    assert axes.get_ylabel().startswith("accuracy minus CE")


def test_more_lines_than_there_are_colours_have_a_tile_each(tmp_path):
    for method, shares in (("ce", (0.9, 0.5, 0.1)), ("crt", (0.8, 0.6, 0.5))):
        write(tmp_path, "cifar100_lt", method, 0, shares=shares)
    (one,) = panels(frame_of(from_records(tmp_path))).values()
    ce, crt = one.lines
    many = replace(one, lines=(ce, *(replace(crt, name=f"method {place}") for place in range(len(COLOURS)))))
    with style():
        differences, courses = classes.per_class(many), results.curves(many)
    titles = [f"method {place} (1)" for place in range(len(COLOURS))]
    assert [axes.get_title("left") for axes in differences.axes] == titles
    expected = classes.smoothed(list((crt.per_class(one.order) - ce.per_class(one.order))[0]))
    assert all(list(axes.get_lines()[1].get_ydata()) == pytest.approx(expected) for axes in differences.axes)
    drawn = [axes for axes in courses.axes if axes.get_visible()]
    assert [axes.get_title("left") for axes in drawn] == ["CE (1)", *titles]
    behind, own = drawn[-1].get_lines()
    assert list(behind.get_ydata()) == [line["heads"]["classifier"]["all"] for line in ce.runs[0].metrics()]
    assert list(own.get_ydata()) == [line["heads"]["classifier"]["all"] for line in crt.runs[0].metrics()]


def test_the_confusion_is_the_mean_over_seeds(shown):
    line = shown[MNIST].lines[0]
    mean = classes.mean_confusion(line)
    assert mean.sum(1) == pytest.approx(np.full(10, 100.0))
    assert np.diag(mean) == pytest.approx(np.mean([run.scores()["per_class"] for run in line.runs], 0))


def test_class_counts_by_size_whatever_the_numbers_of_the_classes():
    with style():
        figure = classes.counts("three", ["a", "b", "c"], [5, 50, 500], {"many": [2], "medium": [1], "few": [0]})
    heights = [bar.get_height() for container in figure.axes[0].containers for bar in container]
    assert heights == [500, 50, 5]
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["c", "b", "a"]
    assert [text.get_text() for text in figure.axes[0].texts] == ["many", "medium", "few", "500", "50", "5"]
    assert figure.axes[0].get_title(loc="left") == "three: 555 images of 3 classes"


def test_the_delta_curve(tmp_path):
    for seed, threshold in ((0, 0.2), (1, 0.2), (0, 0.8)):
        write(tmp_path, "cifar100_lt", "csa", seed, f"delta={threshold}")
    frame = frame_of(from_records(tmp_path))
    (one,) = panels(frame).values()
    assert [(delta, len(line.runs)) for delta, line in results.thresholds(one)] == [(0.2, 2), (0.8, 1)]
    (drawn,) = drawn_from_records(Wish("delta"), frame)
    assert drawn.name == "delta_cifar_100_lt_ratio_100"


@given(st.lists(st.tuples(st.floats(-8, 8), st.floats(-8, 8), st.floats(-8, 8)), min_size=1, max_size=30))
def test_the_calibration_of_the_diagram_is_the_recorded_one(rows):
    confidence, predicted = torch.tensor(rows, dtype=torch.float64).softmax(1).max(1)
    right = (predicted == torch.arange(len(rows)) % 3).numpy()
    mean, share, sizes = results.binned(confidence.numpy(), right)
    found = 100 * (sizes * np.abs(mean - share)).sum() / len(rows)
    parts = (PARTS * confidence.numpy()).astype(np.int64)
    sums = (np.bincount(calibration_bins(parts), weights=values) for values in (parts, right))
    assert found == pytest.approx(calibration_error(*sums, len(rows)), abs=1e-9)


def test_reliability_needs_logits(tmp_path):
    make(tmp_path, "mnist_lt", "ce", 0)
    (run,) = from_folders(tmp_path)
    confidence, right = results.confidences(run, "classifier")
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
        figure = classes.counts("$x_1 & <b>", ["a", "b"], [3, 2], {"many": [0], "medium": [], "few": [1]})
        assert isinstance(figure, Figure)
        assert b"<svg" in files(figure)["svg"]
