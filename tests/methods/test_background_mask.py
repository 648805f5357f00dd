from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from csa.methods.background_mask import background_mask, gradient_class_map, linear_class_map


def largest_difference(path: Path) -> float:
    golden = {name: torch.from_numpy(values) for name, values in np.load(path).items()}
    class_map = linear_class_map(golden["feature_map"], golden["weight"], golden["target"])
    return float((background_mask(class_map, (32, 32)) - golden["mask"]).abs().max())


def test_agrees_with_the_released_implementation():
    assert largest_difference(Path(__file__).with_name("golden_csa_mask.npz")) < 1e-5


@pytest.mark.data
def test_agrees_with_the_released_implementation_on_all_images():
    if "CSA_DATA" not in os.environ:
        pytest.skip("CSA_DATA is not set")
    path = Path(os.environ["CSA_DATA"]).parent / "golden" / "csa_mask.npz"
    if not path.exists():
        pytest.skip(f"no golden values at {path}")
    assert largest_difference(path) < 1e-5


def test_gradient_and_closed_form_agree_where_both_apply():
    torch.manual_seed(0)
    feature_map = torch.randn(5, 16, 4, 6).relu().requires_grad_()
    head, labels = nn.Linear(16, 7), torch.tensor([0, 6, 3, 3, 1])
    scores = head(feature_map.mean((2, 3))).gather(1, labels[:, None])
    by_gradient = gradient_class_map(feature_map, scores)
    closed = linear_class_map(feature_map.detach(), head.weight.detach(), labels)
    torch.testing.assert_close(by_gradient * 24, closed)
    torch.testing.assert_close(background_mask(by_gradient, (8, 12)), background_mask(closed, (8, 12)))
    assert head.weight.grad is None
    assert not by_gradient.requires_grad


def test_values_by_hand():
    """At the map's own resolution bicubic resizing is the identity: ReLU, scaling and square remain."""
    class_map = torch.tensor([[[-3.0, 1.0], [3.0, 5.0]], [[1.0, 2.0], [3.0, 5.0]]])
    mask = background_mask(class_map, (2, 2))
    expected = [[1.0, 0.64, 0.16, 0.0], [1.0, 0.5625, 0.25, 0.0]]
    torch.testing.assert_close(mask.flatten(1), torch.tensor(expected))


@pytest.mark.parametrize("value", [0.0, -2.0, 3.0, 1e-30, 1e30])
def test_a_flat_map_marks_no_object(value: float):
    class_map = torch.full((2, 4, 4), value)
    class_map[1] = torch.arange(16.0).view(4, 4)
    mask = background_mask(class_map, (8, 8))
    assert (mask[0] == 1).all()
    assert mask[1].min() == 0


def test_rounding_on_a_flat_map_is_not_evidence():
    class_map = torch.full((1, 4, 4), 2.0)
    class_map[0, 0, 0] = class_map[0, 0, 0].nextafter(torch.tensor(3.0))
    assert (background_mask(class_map, (8, 8)) == 1).all()


def test_a_single_place_is_flat():
    assert (background_mask(torch.tensor([[[2.0]]]), (8, 8)) == 1).all()


def test_float32_under_autocast():
    torch.manual_seed(1)
    feature_map, weight, labels = torch.rand(3, 8, 4, 4), torch.randn(5, 8), torch.tensor([0, 4, 2])
    plain = background_mask(linear_class_map(feature_map, weight, labels), (9, 9))
    with torch.autocast("cpu", torch.bfloat16):
        cast = background_mask(linear_class_map(feature_map, weight, labels), (9, 9))
    assert cast.dtype == torch.float32
    assert torch.equal(plain, cast)
    assert ((plain >= 0) & (plain <= 1)).all()
