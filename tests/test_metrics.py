"""Scores against values worked out by hand, and against scikit-learn's."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn import metrics as sklearn
from torch import nn

from csa.data.batch import Shard
from csa.methods.method import Method
from csa.metrics import PARTS, Scores, calibration_bins, class_means, completed, scores
from csa.training.distributed import ProcessGroup
from csa.training.evaluation import NotFiniteLogitsError, head_scores

BY_RANK = {"many": (0,), "medium": (1, 2), "few": (3,)}
BY_COUNT = {"many": (0, 1), "medium": (2, 3), "few": ()}
BY_HAND = [[8, 2, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [3, 0, 1, 0]]
"""10, 2, 0 and 4 images; 12, 3, 1 and 0 predictions."""


def of(confusion: list[list[int]] | np.ndarray) -> Scores:
    return scores(np.asarray(confusion), 0.0, BY_RANK, BY_COUNT)


def test_by_hand():
    found = of(BY_HAND)
    assert found.all == 100 * 9 / 16
    assert found.per_class == [80.0, 50.0, None, 0.0]
    assert found.balanced == pytest.approx((80 + 50 + 0) / 3)
    assert (found.many, found.medium, found.few) == (80.0, 50.0, 0.0)
    assert found.by_count == {"many": 65.0, "medium": 0.0, "few": None}
    assert found.macro_f1 == pytest.approx(100 * (2 * 8 / (10 + 12) + 2 * 1 / (2 + 3) + 0) / 3)
    assert found.g_mean == 0.0
    assert found.predicted_classes == 3


def test_groups_are_means_of_classes_not_shares_of_images():
    """Class 1 is right in 3 of 4 images, class 2 in 1 of 16: 4 of 20 images."""
    found = of([[1, 0, 0, 0], [0, 3, 1, 0], [15, 0, 1, 0], [0, 0, 0, 1]])
    assert found.medium == (75.0 + 6.25) / 2
    assert found.all == pytest.approx(100 * 6 / 22)
    assert found.balanced == (100 + 75 + 6.25 + 100) / 4
    assert found.g_mean == pytest.approx(100 * (1 * 0.75 * 0.0625 * 1) ** (1 / 4))


def test_a_network_that_is_always_right_and_one_that_predicts_a_single_class():
    perfect = of(np.diag([3, 2, 1, 5]))
    assert set(perfect.summary().values()) == {100.0}
    collapsed = of([[4, 0, 0, 0]] * 4)
    assert (collapsed.predicted_classes, collapsed.all, collapsed.balanced, collapsed.g_mean) == (1, 25.0, 25.0, 0.0)
    assert collapsed.macro_f1 == pytest.approx(100 * (2 * 4 / (4 + 16)) / 4)


def test_what_the_record_leaves_open_stays_open():
    """Scores from before macro F1 and means of classes, of which only the class accuracies can be trusted."""
    found = of(BY_HAND).as_dict()
    old = {"all": 56.25, "many": 80.0, "medium": 1.0, "few": 1.0, "by_count": {}, "per_class": found["per_class"]}
    new = completed({**old, "epoch": 3}, BY_RANK, BY_COUNT)
    expected = {**found, "macro_f1": None, "epoch": 3}
    assert new == {name: value for name, value in expected.items() if name not in ("ece", "predicted_classes")}
    assert completed(found, BY_RANK, BY_COUNT) == found


@st.composite
def confusions(draw: st.DrawFn) -> np.ndarray:
    classes = draw(st.integers(2, 12))
    most = draw(st.sampled_from([1, 5, 1000]))
    confusion = draw(arrays(np.int64, (classes, classes), elements=st.integers(0, most)))
    confusion[draw(st.lists(st.integers(0, classes - 1), max_size=3))] = 0  # classes without test images
    confusion[0, 0] += confusion.sum() == 0
    return confusion


@settings(max_examples=50)
@given(confusions(), st.data())
def test_as_scikit_learn_has_it(confusion, data):
    classes = len(confusion)
    group = data.draw(st.lists(st.integers(0, classes - 1), unique=True))
    groups = {"many": group, "medium": (), "few": range(classes)}
    found = scores(confusion, 0.0, groups, groups)
    labels, predictions = (place.ravel() for place in np.indices(confusion.shape))
    arguments, weights = (labels, predictions), confusion.ravel()
    present = np.flatnonzero(confusion.sum(1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # classes without images, which it leaves out, too
        seen = weights > 0
        balanced = sklearn.balanced_accuracy_score(labels[seen], predictions[seen], sample_weight=weights[seen])
    recalls = sklearn.recall_score(*arguments, labels=present, average=None, sample_weight=weights)
    f1 = sklearn.f1_score(*arguments, labels=present, average="macro", zero_division=0, sample_weight=weights)
    assert found.all == pytest.approx(100 * sklearn.accuracy_score(*arguments, sample_weight=weights))
    assert found.balanced == pytest.approx(100 * balanced)
    assert found.few == found.balanced
    assert found.macro_f1 == pytest.approx(100 * f1)
    assert [value for value in found.per_class if value is not None] == pytest.approx(list(100 * recalls))
    assert found.g_mean == pytest.approx(100 * math.prod(recalls) ** (1 / len(recalls)))
    members = recalls[np.isin(present, group)]
    assert found.many == (pytest.approx(100 * members.mean()) if len(members) else None)
    assert found.medium is None
    assert all(value is None or 0 <= value <= 100 for value in found.summary().values())


def test_as_scikit_learn_has_it_by_default_where_every_class_has_images():
    labels, predictions = np.arange(40) % 4, np.arange(40) % 3
    confusion = sklearn.confusion_matrix(labels, predictions)
    assert of(confusion).macro_f1 == pytest.approx(100 * sklearn.f1_score(labels, predictions, average="macro"))


def test_a_thousand_small_accuracies_have_a_geometric_mean():
    """Their product is no number of fp64."""
    groups = dict.fromkeys(("many", "medium", "few"), range(1000))
    assert class_means([2.0] * 1000, groups, groups)["g_mean"] == pytest.approx(2.0)


# --- counted on a device --------------------------------------------------------------------


class Softmax(nn.Module):
    probabilities = Method.probabilities


def measured(
    logits: torch.Tensor, labels: torch.Tensor, together: ProcessGroup | None = None, method: nn.Module | None = None
) -> Scores:
    classes = {name: range(logits.shape[1]) for name in BY_RANK}
    found = head_scores(method or Softmax(), {"only": logits}, labels, classes, classes, together or ProcessGroup())
    return found["only"]


def logits_of(predictions: list[int], classes: int = 4, margin: float = 4.0) -> torch.Tensor:
    return margin * torch.nn.functional.one_hot(torch.tensor(predictions), classes).float()


def test_the_confusion_matrix_has_rows_of_labels():
    labels = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
    found = measured(logits_of([0, 0, 1, 0, 2, 2, 0, 3]), labels)
    assert found.confusion.tolist() == [[2, 0, 0, 0], [1, 1, 0, 0], [0, 0, 2, 0], [1, 0, 0, 1]]
    assert found.all == 75.0


def test_calibration_error_is_the_gap_between_confidence_and_accuracy():
    """All predictions in one bin: |confidence - accuracy|, in percent."""
    confidence = np.exp(2.0) / (np.exp(2.0) + 3)
    found = measured(logits_of([0, 0, 0, 0], margin=2.0), torch.tensor([0, 0, 0, 1]))
    assert found.ece == pytest.approx(100 * abs(confidence - 0.75), abs=1e-3)


def test_calibration_is_that_of_the_method_s_own_probabilities():
    """Of independent sigmoids: 0.5 and 0.88, both predicted wrongly."""
    logits = torch.tensor([[0.0, -5.0], [-5.0, 2.0]])
    independent = Softmax()
    independent.probabilities = torch.sigmoid
    found = measured(logits, torch.tensor([1, 0]), method=independent)
    assert found.ece == pytest.approx(100 * (0.5 + 1 / (1 + math.exp(-2))) / 2, abs=1e-5)


def test_calibration_uses_fifteen_bins():
    """0.66 and 0.68 lie in different fifteenths (10 and 11), so their errors do not cancel."""
    confidences = torch.tensor([0.66, 0.68])
    logits = torch.stack([(confidences / (1 - confidences)).log(), torch.zeros(2)], 1)
    assert measured(logits, torch.tensor([0, 1])).ece == pytest.approx(100 * (0.34 + 0.68) / 2, abs=1e-3)


@given(st.lists(st.tuples(st.floats(-20, 20, width=32), st.integers(0, 2)), min_size=1, max_size=40))
def test_calibration_error_bin_by_bin(images):
    """Guo et al. 2017, equation 3, with the bins ((m - 1) / 15, m / 15], in exact numbers of fp64."""
    labels = torch.tensor([label for _, label in images])
    logits = torch.stack(
        [torch.tensor([logit for logit, _ in images]), torch.zeros(len(images)), torch.ones(len(images))], 1
    )
    confidence = logits.softmax(1).amax(1).double().numpy()
    right = (logits.argmax(1) == labels).numpy()
    expected = 0.0
    for m in range(1, 16):
        held = (m - 1 < 15 * confidence) & (15 * confidence <= m)
        if held.any():
            expected += held.sum() / len(images) * abs(right[held].mean() - confidence[held].mean())
    assert measured(logits, labels).ece == pytest.approx(100 * expected, abs=1e-11)


def test_an_edge_belongs_to_the_bin_below_it():
    parts = np.array([0, 1, PARTS // 15, PARTS // 15 + 1, PARTS])
    assert calibration_bins(parts).tolist() == calibration_bins(torch.from_numpy(parts)).tolist() == [0, 0, 0, 1, 14]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_that_are_not_finite_are_noticed(value):
    with pytest.raises(NotFiniteLogitsError, match="a logit of head 'only' is not finite"):
        measured(torch.tensor([[value, 1.0], [0.0, 9.0]]), torch.tensor([0, 1]))


def test_several_processes_count_together():
    """Exactly what one process counts that has all images: whole numbers are added."""
    generator = torch.Generator().manual_seed(0)
    labels, logits = torch.arange(101) % 5, torch.randn(101, 5, generator=generator)
    alone = measured(logits, labels)
    sums: list[torch.Tensor] = []

    class Others(ProcessGroup):
        def summed(self, values):
            sums.append(values)
            return torch.stack(sums).sum(0)

    for rows in (slice(0, 51), slice(51, 101)):
        together = measured(logits[rows], labels[rows], Others(Shard(0, 2)))
    assert together.as_dict() == alone.as_dict()
    assert np.array_equal(together.confusion, alone.confusion)
