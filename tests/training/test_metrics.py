"""Scores against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from csa.data.split import Groups
from csa.training.metrics import calibration_error, scores

BY_RANK = Groups(many=(0,), medium=(1, 2), few=(3,))
BY_COUNT = Groups(many=(0, 1), medium=(2, 3), few=())


def logits_of(predictions: list[int], classes: int = 4, margin: float = 4.0) -> torch.Tensor:
    return margin * torch.nn.functional.one_hot(torch.tensor(predictions), classes).float()


def test_accuracies_of_groups_classes_and_all():
    labels = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
    result = scores(logits_of([0, 0, 1, 0, 2, 2, 0, 3]), labels, BY_RANK, BY_COUNT)
    assert result.all == 75.0
    assert (result.many, result.medium, result.few) == (100.0, 75.0, 50.0)
    assert result.by_count == {"many": 75.0, "medium": 75.0, "few": None}
    assert result.per_class == [100.0, 50.0, 100.0, 50.0]
    assert result.confusion == [[2, 0, 0, 0], [1, 1, 0, 0], [0, 0, 2, 0], [1, 0, 0, 1]]
    assert result.predicted_classes == 4


def test_groups_weigh_images_not_classes():
    labels = torch.tensor([1, 1, 1, 2])
    result = scores(logits_of([1, 1, 0, 0]), labels, BY_RANK, BY_COUNT)
    assert result.medium == 50.0
    assert result.per_class == [None, pytest.approx(200 / 3), 0.0, None]
    assert result.many is None


def test_a_collapsed_network_predicts_one_class():
    labels = torch.tensor([0, 1, 2, 3])
    assert scores(logits_of([2, 2, 2, 2]), labels, BY_RANK, BY_COUNT).predicted_classes == 1


def test_calibration_error_is_the_gap_between_confidence_and_accuracy():
    """All predictions in one bin: |confidence - accuracy|, in percent."""
    labels = torch.tensor([0, 0, 0, 1])
    logits = logits_of([0, 0, 0, 0], margin=2.0)
    confidence = np.exp(2.0) / (np.exp(2.0) + 3)
    result = scores(logits, labels, BY_RANK, BY_COUNT)
    assert result.ece == pytest.approx(100 * abs(confidence - 0.75), abs=1e-3)


def test_calibration_uses_fifteen_bins():
    """0.68 and 0.72 lie in different fifteenths (10 and 11), so their errors do not cancel."""
    confidences = torch.tensor([0.66, 0.68])
    logits = torch.stack([(confidences / (1 - confidences)).log(), torch.zeros(2)], 1)
    groups = Groups(many=(0,), medium=(), few=(1,))
    result = scores(logits, torch.tensor([0, 1]), groups, groups)
    assert result.ece == pytest.approx(100 * (0.34 + 0.68) / 2, abs=1e-3)


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=40))
def test_calibration_error_bin_by_bin(images):
    """Guo et al. 2017, equation 3, with the bins ((m - 1) / 15, m / 15]."""
    confidence, right = np.array([p for p, _ in images]), np.array([hit for _, hit in images])
    edges = 15 * confidence
    assume(np.all((edges == 0) | (np.abs(edges - edges.round()) > 1e-9)))  # on an edge rounding decides
    expected = 0.0
    for m in range(1, 16):
        held = ((m - 1) / 15 < confidence) & (confidence <= m / 15)
        held |= (m == 1) & (confidence == 0)
        if held.any():
            expected += held.sum() / len(images) * abs(right[held].mean() - confidence[held].mean())
    assert calibration_error(confidence, right) == pytest.approx(expected, abs=1e-12)
