"""A run stopped at any step and continued equals one that was left alone, bit for bit."""

from __future__ import annotations

import contextlib
import gc
import json
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from recorded_runs import start
from same_run import assert_same, contents
from shaped_tree import write_tree
from small_network import SMALL_RESNET

from csa.config.faults import UserError
from csa.config.locations import conf_dir
from csa.tracking.record import Record
from csa.training import checkpoint, loop, machine
from csa.training.recorded import load_method

METHODS = sorted(path.stem for path in (conf_dir() / "method").glob("*.yaml"))
REFILLING = ("delta=0.105", "method.bank_size=4", "protocol.lr=0.1")
"""CSA's bank is enough late in the first epoch, and refills through most of the second."""
EAGER = {
    "csa": REFILLING,
    "csa_mixup": REFILLING,
    "m2m": ("method.beta=0", "method.gamma=0", "method.iterations=2"),  # accepts every translation
    "tau_norm": ("method.tau=null", "dataset.holdout=2"),
    "sade": ("method.aggregation=test_time",),
}


SMALL_REFILLING = (SMALL_RESNET, "delta=0.3", "method.bank_size=6", "protocol.lr=0.03")
NEEDS_RESNET = {"csa": SMALL_REFILLING, "csa_mixup": SMALL_REFILLING, "fsa": (SMALL_RESNET,)}
"""Bound to its numbers, or to its pooling; the others train on a quicker network."""


def quick(method: str) -> tuple[str, ...]:
    return NEEDS_RESNET.get(method, ("backbone=lenet",))


class Stopper:
    """Stands for a signal that arrives at given steps of the whole run, counted over all starts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *steps: int) -> None:
        self.steps, self.taken = set(steps), 0
        original = loop.Training._step

        def step(training, *args):
            original(training, *args)
            self.taken += 1
            if self.taken in self.steps:
                training._interruption.status = 75

        monkeypatch.setattr(loop.Training, "_step", step)


def start_until_done(config) -> tuple[Record, int]:
    for starts in range(1, 30):
        with contextlib.suppress(SystemExit):
            return start(config), starts
    raise AssertionError("never done")


@pytest.mark.parametrize(
    ("method", "more"),
    [
        *((method, ()) for method in METHODS),
        *(("csa", (f"method.loss={loss}",)) for loss in ("logit_adjusted", "bcl")),
    ],
)
def test_stopped_anywhere_and_continued_is_the_same_run(method, more, configuration, tmp_path, monkeypatch):
    words = (f"method={method}", *EAGER.get(method, ()), *quick(method), *more)
    undisturbed = start(configuration(*words))
    expected = contents(undisturbed)
    total = sum(1 for _ in undisturbed.metrics())
    # In the first epoch, at its end, in the second, and in stage two where there is one.
    Stopper(monkeypatch, 2, 5, 7, 9, 13, 18)
    disturbed, starts = start_until_done(configuration(*words, f"output_root={tmp_path / 'disturbed'}"))
    assert starts >= 4
    assert len(disturbed.metrics()) == total
    assert_same(contents(disturbed), expected)


def test_so_are_the_state_of_adamw_and_the_average_of_the_weights(configuration, tmp_path, monkeypatch):
    words = ("method=crt", SMALL_RESNET, "protocol.optimizer=adamw", "protocol.layer_decay=0.7")
    words += ("protocol.clip_norm=1", "protocol.ema=0.9")
    undisturbed = contents(start(configuration(*words)))
    assert undisturbed["momentum"][0].keys() == {"step", "exp_avg", "exp_avg_sq"}
    assert float(undisturbed["average"][0]) > 0
    Stopper(monkeypatch, 2, 8, 13)
    disturbed, starts = start_until_done(configuration(*words, f"output_root={tmp_path / 'disturbed'}"))
    assert starts == 4
    assert_same(contents(disturbed), undisturbed)


def test_the_best_network_on_validation_images_is_kept_tested_and_resumed(configuration, tmp_path, monkeypatch):
    shares = {(0, 0): 40.0, (0, 1): 60.0, (0, 2): 60.0, (1, 0): 30.0, (1, 1): 20.0}
    seen = {}

    def scores(training):
        found, state = evaluated(training), training._state
        if state.at.epoch < state.stage.epochs and state.at.step:
            at = state.at.stage, state.at.epoch
            seen[at] = {name: value.clone() for name, value in state.method.state_dict().items()}
            found = found._replace(scores={head: replace(one, all=shares[at]) for head, one in found.scores.items()})
        return found

    evaluated = loop.Training._on_validation_images
    monkeypatch.setattr(loop.Training, "_on_validation_images", scores)
    words = ("method=crt", "protocol.choose=best_on_validation", "dataset.holdout_share=0.2", "protocol.epochs=3")
    words += ("method.epochs=2", SMALL_RESNET)
    undisturbed = start(configuration(*words))
    expected = contents(undisturbed)
    assert expected["chosen"]["rule"] == "best_on_validation"
    assert list(expected["chosen"]["epochs"].values()) == [1, 0]
    assert [line["validation"] for line in expected["lines"]] == [40, 60, 60, 30, 20]
    kept, _ = load_method(undisturbed.folder)
    assert all(torch.equal(value, seen[1, 0][name]) for name, value in kept.state_dict().items())
    trunk = [name for name in kept.state_dict() if name.startswith("backbone") and "conv" in name]
    assert all(torch.equal(seen[1, 0][name], seen[0, 1][name]) for name in trunk)
    assert not all(torch.equal(seen[0, 2][name], seen[0, 1][name]) for name in trunk)
    last = [line["heads"][line["head"]]["all"] for line in expected["lines"]]
    assert undisturbed.result["all"] == last[3]
    Stopper(monkeypatch, 2, 8, 13, 17)
    disturbed, starts = start_until_done(configuration(*words, f"output_root={tmp_path / 'disturbed'}"))
    assert starts >= 4
    assert_same(contents(disturbed), expected)


def test_images_that_stay_in_their_files_are_resumed_in_an_epoch_s_middle(configuration, tmp_path, monkeypatch):
    write_tree(tmp_path / "images", classes=4, largest=12, smallest=3, of_each=2, side=32)
    lists = [f"dataset.{part}_list=ImageNet_LT_{part}.txt" for part in ("train", "test")]
    words = ("dataset=list_files", f"dataset.root={tmp_path / 'images'}", "dataset.image_size=16", *lists)
    words += ("method=csa", "backbone=resnet32", SMALL_RESNET, "delta=0.1", "protocol.batch_size=8")
    undisturbed = contents(start(configuration(*words, "runtime.workers=0", of_digits=False)))
    Stopper(monkeypatch, 2, 6)
    # How long torch waits for each worker of a start that is garbage, here while the next start is under way.
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.2)
    disturbed, starts = start_until_done(
        configuration(*words, "runtime.workers=2", f"output_root={tmp_path / 'disturbed'}", of_digits=False)
    )
    assert starts == 3
    assert_same(contents(disturbed), undisturbed)
    gc.collect()


def test_a_network_that_draws_is_resumed_and_needs_its_file_of_weights_no_more(configuration, tmp_path, monkeypatch):
    file = tmp_path / "vit.pt"
    torch.save(timm.create_model("test_vit", in_chans=1, img_size=16).state_dict(), file)
    words = (
        "method=ce",
        "backbone=timm",
        "backbone.model=test_vit",
        f"backbone.weights={file}",
        "backbone.drop_path=0.3",
    )
    undisturbed = start(configuration(*words))
    Stopper(monkeypatch, 2, 5)
    disturbed, starts = start_until_done(configuration(*words, f"output_root={tmp_path / 'disturbed'}"))
    assert starts == 3
    assert_same(contents(disturbed), contents(undisturbed))
    file.unlink()
    method, _ = load_method(disturbed.folder)
    weights = contents(disturbed)["weights"]
    assert all(torch.equal(value, weights[name]) for name, value in method.state_dict().items())


def test_a_damaged_checkpoint_costs_time_not_truth(configuration, tmp_path, monkeypatch):
    expected = contents(start(configuration("method=csa", "backbone=lenet")))
    Stopper(monkeypatch, 3, 6)
    config = configuration("method=csa", "backbone=lenet", f"output_root={tmp_path / 'damaged'}")
    for _ in range(2):
        with pytest.raises(SystemExit):
            start(config)
    (path,) = Path(config.output_root).rglob("checkpoint.pt")
    path.write_bytes(path.read_bytes()[:-1000])
    record, _ = start_until_done(config)
    assert "passed over a damaged checkpoint" in (record.folder / "log.txt").read_text()
    assert_same(contents(record), expected)


def test_crt_takes_the_finished_first_stage_of_ce(configuration, tmp_path):
    small = "backbone=lenet"
    alone = contents(start(configuration("method=crt", small, f"output_root={tmp_path / 'alone'}")))
    start(configuration("method=ce", small))
    record = start(configuration("method=crt", small))
    assert record.result["reused_epochs"] == 2
    assert "taken from a finished run" in (record.folder / "log.txt").read_text()
    assert_same(contents(record), alone)


@pytest.mark.parametrize("method", ["ce", "crt"])
def test_a_run_killed_behind_its_first_stage_does_not_take_that_for_another_s(method, configuration, monkeypatch):
    keep = checkpoint.SharedStages.keep

    def killed(*args):
        keep(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint.SharedStages, "keep", killed)
        with pytest.raises(KeyboardInterrupt):
            start(configuration(f"method={method}", "backbone=lenet"))
    result = start(configuration(f"method={method}", "backbone=lenet")).result
    assert result["reused_epochs"] == 0
    assert result["seconds"] > 0


def test_a_run_that_another_process_finishes_meanwhile_is_left_alone(configuration):
    config = configuration("method=ce", "backbone=lenet")
    record = start(config)
    before = {path.name: path.stat().st_mtime_ns for path in record.folder.iterdir() if path.name != "lease.lock"}
    start(config)  # as ``csa.run`` does that has seen it unfinished
    assert {name: (record.folder / name).stat().st_mtime_ns for name in before} == before


def test_a_damaged_stage_is_trained_and_kept_again(configuration):
    start(configuration("method=ce", "backbone=lenet"))
    (stage,) = Path(configuration().output_root).rglob("stages/*.pt")
    stage.write_bytes(stage.read_bytes()[:-1000])
    assert start(configuration("method=crt", "backbone=lenet")).result["reused_epochs"] == 0
    assert start(configuration("method=lws", "backbone=lenet")).result["reused_epochs"] == 2


@pytest.mark.parametrize("method", ["ce", "crt"])
def test_a_run_that_starts_over_takes_no_finished_stage(method, configuration):
    """Not even the one that it left itself; it trains the same again."""
    first = start(configuration(f"method={method}", "backbone=lenet"))
    expected, seconds = contents(first), first.result["seconds"]
    again = start(configuration(f"method={method}", "backbone=lenet", "rerun=true"))
    assert again.folder == first.folder
    assert again.result["reused_epochs"] == 0
    assert 0 < again.result["seconds"] != seconds
    assert_same(contents(again), expected)


def test_a_continued_run_keeps_its_number_of_threads(configuration, monkeypatch):
    """Another one is refused before anything is touched; where none is asked for, it goes on with its own."""
    monkeypatch.setattr(machine, "idle_cores", lambda: 2)
    Stopper(monkeypatch, 3)
    with pytest.raises(SystemExit):
        start(configuration("method=ce", "backbone=lenet", "runtime.threads=null"))
    (config,) = Path(configuration().output_root).rglob("config.yaml")
    assert "threads: 2\n" in config.read_text()
    before = {path.name: path.stat().st_mtime_ns for path in config.parent.iterdir()}
    with pytest.raises(UserError, match=r"runtime.threads=1: this run was started with 2"):
        start(configuration("method=ce", "backbone=lenet", "runtime.threads=1"))
    assert {path.name: path.stat().st_mtime_ns for path in config.parent.iterdir()} == before
    monkeypatch.setattr(machine, "idle_cores", lambda: 1)
    assert start(configuration("method=ce", "backbone=lenet", "runtime.threads=null")).result["threads"] == 2


def test_what_starts_from_a_finished_stage_takes_its_number_of_threads(configuration, monkeypatch):
    monkeypatch.setattr(machine, "idle_cores", lambda: 1)
    monkeypatch.setattr(checkpoint, "cores", lambda: 2)
    start(configuration("method=ce", "backbone=lenet", "runtime.threads=2"))
    result = start(configuration("method=crt", "backbone=lenet", "runtime.threads=null")).result
    assert (result["threads"], result["reused_epochs"]) == (2, 2)
    asked = start(configuration("method=lws", "backbone=lenet", "runtime.threads=1")).result
    assert (asked["threads"], asked["reused_epochs"]) == (1, 0)


ONE_PLACE = ("backbone=resnet10", "backbone.stem=large", "protocol.epochs=1", "protocol.stage_two.epochs=1")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("method=ce", "protocol.batch_size=61"), "batch_size=61: leaves one image to one of the 2 steps of an epoch"),
        (("method=ce", "protocol.batch_size=61", "protocol.drop_last=true"), ""),
        (("method=ce", "protocol.batch_size=61", "backbone.stem=small"), ""),
        (("method=crt", "protocol.batch_size=17", "method.draws=cycle"), "one of the 8 steps"),
        (("method=crt", "protocol.batch_size=17", "method.draws=cycle", "method.bn_mode=eval"), ""),
    ],
)
def test_a_step_of_one_image_that_batch_norm_cannot_take_is_a_fault(configuration, words, said):
    """62 images, and 10 * 12 draws of crt's second stage; the last feature map has one place."""
    config = configuration(*ONE_PLACE, *words)
    if not said:
        assert start(config).state == "done"
        return
    with pytest.raises(UserError, match=said):
        start(config)
    assert list(Path(config.output_root).rglob("identity.json")) == []


def test_a_loss_that_is_not_finite_fails_and_says_where(configuration, monkeypatch):
    with pytest.raises(SystemExit) as stop:
        start(configuration("method=ce", SMALL_RESNET, "protocol.lr=1e30"))
    assert stop.value.code == 1
    config = configuration("method=ce", SMALL_RESNET, "protocol.lr=1e30")
    (failure,) = Path(config.output_root).rglob("failure.json")
    reason = json.loads(failure.read_text())["reason"]
    assert "stage 'train', epoch 0, step 1, learning rate 1e+30" in reason
    assert "there is no checkpoint yet" in reason
    assert Record(failure.parent).state == "failed"


def test_weights_that_are_not_finite_after_the_last_step_say_where(configuration):
    config = configuration("method=ce", "protocol.epochs=1", "protocol.lr=1e38", "protocol.batch_size=500")
    with pytest.raises(SystemExit, match="1"):
        start(config)
    (failure,) = Path(config.output_root).rglob("failure.json")
    said = "a logit of head 'classifier' is not finite at stage 'train', epoch 0, learning rate 1e+38; there is no"
    assert json.loads(failure.read_text())["reason"].startswith(said)
    assert not (failure.parent / "checkpoint.pt").exists()


def test_finite_losses_whose_mean_is_not_and_weights_in_a_checkpoint(configuration, monkeypatch):
    """The largest float32, twice; and a weight that became nothing in the step before a checkpoint."""
    most = torch.finfo(torch.float32).max
    step = loop.train_step

    def finite_step(state, *how):
        return step(state, *how)._replace(loss=torch.tensor(most))

    monkeypatch.setattr(loop, "train_step", finite_step)
    config = configuration("method=ce", SMALL_RESNET, "variant=mean")
    with pytest.raises(SystemExit, match="1"):
        start(config)
    (failure,) = Path(config.output_root).rglob("failure.json")
    assert "loss is inf in the epoch's mean at stage 'train', epoch 0" in json.loads(failure.read_text())["reason"]

    def broken_step(state, *how):
        taken = step(state, *how)
        with torch.no_grad():
            next(state.method.parameters()).fill_(torch.nan)
        return taken

    monkeypatch.setattr(loop, "train_step", broken_step)
    config = configuration("method=ce", SMALL_RESNET, "variant=weight", "runtime.checkpoint_seconds=0")
    with pytest.raises(SystemExit, match="1"):
        start(config)
    (failure,) = Path(config.output_root).rglob("*weight*/failure.json")
    assert "a weight is not finite at stage 'train', epoch 0, step 1" in json.loads(failure.read_text())["reason"]
    assert not (failure.parent / "checkpoint.pt").exists()


def test_a_finished_run_has_what_the_issue_asks(configuration):
    result = start(configuration("method=csa", SMALL_RESNET)).result
    asked = (
        "status all many medium few heads fingerprint epochs seconds images_per_second "
        "schema collapsed device step_mode threads packages git_revision git_dirty split"
    )
    for key in asked.split():
        assert key in result, key
    assert set(result["heads"]) == {"uniform", "balanced", "mean"}
    assert result["all"] == result["heads"]["balanced"]["last"]["all"]
    assert len(result["heads"]["mean"]["last"]["per_class"]) == 10
