"""tau-normalisation and post-hoc logit adjustment."""

from __future__ import annotations

import pytest
import torch
from tiny import random_batch

from csa.data.batch import Batch
from csa.methods.decoupled import tau_normalized

WEIGHT = torch.tensor([[3.0, 4.0], [0.0, 2.0], [1.0, 0.0]])


@pytest.mark.parametrize(
    ("tau", "expected"),
    [
        (1, [[0.6, 0.8], [0, 1], [1, 0]]),
        (0.5, [[1.341641, 1.788854], [0, 1.414214], [1, 0]]),
        (0, [[3, 4], [0, 2], [1, 0]]),
    ],
)
def test_tau_normalisation(tau, expected):
    logits = tau_normalized(torch.eye(2), WEIGHT, tau)
    torch.testing.assert_close(logits.T, torch.tensor(expected, dtype=torch.float32), atol=1e-6, rtol=0)


def test_logit_adjustment(build):
    method = build("method=logit_adjustment_post_hoc")
    method.log_prior = torch.tensor([0.9, 0.09, 0.01]).log()
    feature = torch.zeros(1, method.backbone.feature_dim)
    method.head.bias.data = torch.tensor([1.0, 2.0, 3.0])
    assert method.corrected(feature, 1.0)[0].tolist() == pytest.approx([1.105361, 4.407946, 7.605170], abs=1e-5)


@pytest.mark.parametrize("name", ["tau_norm", "logit_adjustment_post_hoc"])
def test_it_is_a_finished_cross_entropy_with_a_second_head(build, name):
    method, ce = build(f"method={name}"), build("method=ce")
    assert dict(method.stages[0].shared) == dict(ce.stages[0].shared)
    assert method.state_dict().keys() == ce.state_dict().keys()
    assert [stage.epochs for stage in method.stages] == [20, 0]
    images = random_batch(0).images
    assert (method.heads, method.primary_head) == (ce.heads, ce.primary_head)
    assert list(method.eval().logits(images)) == ["classifier"]
    method.enter_stage(1)
    plain, corrected = method.eval().logits(images).values()
    assert torch.equal(plain, ce.eval().logits(images)["classifier"])
    assert not torch.allclose(plain, corrected)
    assert method.primary_head == "corrected"


class Holdout:
    """Validation images on which exactly the classifier's own answers (tau 0), or others, are right."""

    def __init__(self, method, tau: float) -> None:
        self.images = random_batch(3, size=40).images
        with torch.no_grad():
            self.labels = method.eval().corrected(method.backbone(self.images), tau).argmax(1)

    def holdout_batches(self, size: int, *, whole: bool):
        assert whole  # every process of a run is to choose the same
        for start in range(0, len(self.labels), 7):
            yield Batch(self.images[start : start + 7], self.labels[start : start + 7])


@pytest.mark.parametrize("tau", [0.0, 1.3])
def test_tau_is_chosen_on_the_validation_images(build, tau):
    method = build("method=logit_adjustment_post_hoc", "method.tau=null", "dataset.holdout=2")
    method.head.bias.data = torch.tensor([2.0, 1.0, 0.0])
    holdout = Holdout(method, tau)
    method.enter_stage(1)
    with torch.no_grad():
        method.eval().prepare(1, holdout)
    feature = method.backbone(holdout.images)
    assert torch.equal(method.corrected(feature, method.tau).argmax(1), holdout.labels)
    assert float(method.tau) <= tau + 1e-6  # the smallest that is as good
    assert "tau" in method.state_dict()
