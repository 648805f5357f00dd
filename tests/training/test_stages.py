"""What the loop asks of a method at the beginning of a stage and of a step."""

from __future__ import annotations

import pytest
from recorded_runs import start
from test_resuming import Stopper, start_until_done

from csa.methods.cam_bs import ForegroundTransfer
from csa.training import loop


@pytest.fixture
def rates(monkeypatch):
    """The learning rate of every step taken."""
    taken: list[float] = []
    original = loop.Training._step

    def step(training, *args):
        taken.append(training._state.optimiser.param_groups[0]["lr"])
        original(training, *args)

    monkeypatch.setattr(loop.Training, "_step", step)
    return taken


WARM_UP = (
    "method=ce",
    "backbone=lenet",
    "protocol.epochs=4",
    "protocol.reference_epochs=4",
    "protocol.warmup_epochs=2",
)


def test_the_rate_is_set_once_an_epoch(configuration, rates):
    start(configuration(*WARM_UP, "protocol.schedule=constant", "protocol.lr=0.1"))
    steps = len(rates) // 4
    assert rates == pytest.approx([rate for rate in (0.05, 0.1, 0.1, 0.1) for _ in range(steps)])


def test_or_at_every_step_of_the_warm_up(configuration, rates):
    words = (
        "protocol.schedule=constant",
        "protocol.lr=0.1",
        "protocol.warmup_from=0",
        "protocol.warmup_each_step=true",
    )
    start(configuration(*WARM_UP, *words))
    steps = len(rates) // 4
    assert rates == pytest.approx([min(0.1, 0.1 * step / (2 * steps)) for step in range(4 * steps)])


def test_a_stage_is_prepared_once(configuration, monkeypatch):
    prepared, added = [], []
    monkeypatch.setattr(ForegroundTransfer, "prepare", lambda *args: prepared.append(args[1]))
    monkeypatch.setattr(ForegroundTransfer, "added_images", lambda *args: added.append(args[1]))
    Stopper(monkeypatch, 2, 7)  # in stage one, in stage two
    start_until_done(configuration("method=cam_bs"))
    assert prepared == [0, 1]
    assert added == [0, 0, 1, 1]


def test_tuned_on_the_validation_images_the_last_evaluation_is_the_best(configuration):
    words = ("method=logit_adjustment_post_hoc", "method.tau=null", "dataset.holdout=5")
    record = start(configuration(*words))
    result = record.result
    assert [line["stage"] for line in record.metrics()] == ["train", "train"]
    for head in ("classifier", "corrected"):
        scores = result["heads"][head]
        assert scores["best_on_test"]["all"] == scores["last"]["all"]
        assert 0.1 <= scores["holdout"]["temperature"] <= 10
    assert result["heads"]["corrected"]["holdout"]["all"] >= result["heads"]["classifier"]["holdout"]["all"]


def test_what_starts_from_a_finished_stage_takes_it(configuration):
    small = "backbone=lenet"
    start(configuration("method=ce", small))
    for method in ("crt", "lws", "tau_norm", "logit_adjustment_post_hoc", "m2m"):
        assert start(configuration(f"method={method}", small)).result["reused_epochs"] == 2, method
    start(configuration("method=mixup", small))
    for method in ("crt_mixup", "lws_mixup"):
        assert start(configuration(f"method={method}", small)).result["reused_epochs"] == 2, method


@pytest.mark.parametrize(("first", "second"), [("ce", "fsa"), ("fsa", "crt")])
def test_a_stage_that_is_shared_holds_nothing_of_what_follows(configuration, first, second):
    start(configuration(f"method={first}", "backbone=resnet32"))
    assert start(configuration(f"method={second}", "backbone=resnet32")).result["reused_epochs"] == 2


def test_runs_that_differ_behind_a_stage_share_it(configuration):
    start(configuration("method=sade", "backbone=lenet"))
    weighed = start(configuration("method=sade", "backbone=lenet", "method.aggregation=test_time"))
    assert (weighed.result["reused_epochs"], weighed.result["head"]) == (2, "aggregated")
    start(configuration("method=cam_bs"))
    record = start(configuration("method=cam_bs", "method.max_angle=10"))
    assert record.result["reused_epochs"] == 1
