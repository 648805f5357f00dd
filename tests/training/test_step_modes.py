"""A step launched in another way is the same step: replayed like a graph, as a real CUDA graph, compiled."""

from __future__ import annotations

import functools
import json
import shutil
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from recorded_runs import start
from same_run import assert_same, contents
from shaped_tree import write_tree
from small_network import SMALL_RESNET
from test_graphs import Recomputed
from test_resuming import EAGER, METHODS, Stopper, quick, start_until_done

from csa.config.faults import UserError
from csa.config.recorded import read_recorded
from csa.data.dataset import load_split
from csa.data.loader import ResidentEpoch
from csa.tracking.record import Record
from csa.training import checkpoint, launching, loop, machine
from csa.training.launching import Graphs
from csa.training.monitoring import where_profiled
from csa.training.recorded import scores_on

FP32 = ("protocol.precision=fp32", "protocol.epochs=3", "protocol.stage_two.epochs=1")
AS_PRINTED = ("method.mask_pass=train", "method.start_epoch=0", "method.empty_bank=never")
FINE_TUNED = ("protocol.optimizer=adamw", "protocol.layer_decay=0.7", "protocol.clip_norm=1", "protocol.ema=0.9")
MORE = {"csa as printed": AS_PRINTED, "csa fine-tuned": (*FINE_TUNED, "protocol.lr=0.002")}


GPU = pytest.param(
    "cuda",
    marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")],
)
everywhere, on_gpu = (pytest.mark.parametrize("device", devices) for devices in (["cpu", GPU], [GPU]))


@pytest.fixture
def launched(device, monkeypatch):
    """Keys of the graphs launched, and how many steps were eager. On the processor runs go the way of graphs too."""
    told = SimpleNamespace(keys=[], eager=0)

    class Noted(Graphs):
        def __init__(self) -> None:
            super().__init__(Recomputed if device == "cpu" else None)

        def run(self, key, *rest):
            told.keys.append(key)
            return super().run(key, *rest)

    def eager(epoch, number):
        told.eager += 1
        return batches(epoch, number)

    batches = ResidentEpoch.batches
    monkeypatch.setattr(ResidentEpoch, "batches", eager)
    monkeypatch.setattr(launching, "Graphs", Noted)
    if device == "cpu":
        monkeypatch.setattr(machine, "_step_mode", lambda asked, *_: asked.step_mode.replace("auto", "graph"))
    return told


@pytest.fixture
def run(device, launched, configuration, tmp_path):
    """``run("name", "method=ce")``: the record of a tiny run on the device, below a folder of that name."""

    def started(name: str, *words: str, until_done: bool = False, **more: Any) -> Record:
        words = (*words, f"runtime.device={device}", f"output_root={tmp_path / name}")
        launched.keys, launched.eager = [], 0
        return (
            start_until_done(configuration(*words, **more))[0] if until_done else start(configuration(*words, **more))
        )

    return started


def words_of(method: str) -> tuple[str, ...]:
    return f"method={method}", *EAGER.get(method, ())


def weights(record) -> dict[str, torch.Tensor]:
    return {name: value.float() for name, value in checkpoint.load(record.checkpoint)["method"].items()}


def told_trouble(record: Record) -> list[str]:
    """Why its steps were launched kernel by kernel, though they should be graphs."""
    lines = (record.folder / "log.txt").read_text().splitlines()
    return [line.rpartition("kernel by kernel: ")[2] for line in lines if "kernel by kernel" in line]


def largest_difference(first, second) -> float:
    ours, theirs = weights(first), weights(second)
    assert ours.keys() == theirs.keys()
    return max(float((value - theirs[name]).abs().max()) for name, value in ours.items())


BEFORE_FORWARD, UPDATE = ("before_forward",), ("update",)
LAUNCHED = {
    "csa": {
        (BEFORE_FORWARD, None),
        (UPDATE, "rests"),
        (UPDATE, "decays"),
        (UPDATE, "learns"),
        (BEFORE_FORWARD + UPDATE, "learns"),
    },
    "csa as printed": {(BEFORE_FORWARD + UPDATE, "learns")},
}
"""Parts of steps with what was decided. As printed a step reads in its middle, until the bank is once enough."""


EAGER_AT_LAST = {"tau_norm", "logit_adjustment_post_hoc", "sade"}
"""Whose last stage has no steps."""


@pytest.mark.parametrize(
    ("device", "case"),
    [
        ("cpu", case)
        for case in ("ce", *LAUNCHED, "csa fine-tuned", "csa_mixup", "crt", "ldam_drw", "m2m", "oltr", "fsa", "gpaco")
    ]
    + [pytest.param("cuda", case, marks=GPU.marks) for case in (*METHODS, "csa as printed", "csa fine-tuned")],
)
def test_replayed_steps_are_the_same_run_bit_for_bit(case, run, launched, device):
    method = case.partition(" ")[0]
    smaller = quick(method) if device == "cpu" else ()
    words = (*words_of(method), *smaller, *MORE.get(case, ()), *FP32)
    eager = run("eager", *words, "runtime.step_mode=eager")
    assert not launched.keys
    replayed = run("replayed", *words)
    assert not told_trouble(replayed)
    assert replayed.result["step_mode"] == ("eager" if case in EAGER_AT_LAST else "graph")
    assert "evaluation" in launched.keys
    steps = {(parts, decision) for parts, *_, decision in (key for key in launched.keys if key != "evaluation")}
    assert steps == LAUNCHED.get(case, steps)
    assert (launched.eager > 0) == (case == "csa as printed")
    assert_same(contents(replayed), contents(eager))


@on_gpu
@pytest.mark.parametrize("method", METHODS)
def test_so_they_are_in_bf16(method, run, launched):
    words = (*words_of(method), *FP32, "protocol.precision=bf16")
    eager, replayed = run("eager", *words, "runtime.step_mode=eager"), run("replayed", *words)
    assert not told_trouble(replayed)
    assert_same(contents(replayed), contents(eager))


@everywhere
def test_a_network_that_draws_is_launched_kernel_by_kernel(run, launched):
    words = ("method=ce", "backbone=timm", "backbone.model=test_vit", "backbone.drop_path=0.3", *FP32)
    record = run("drawing", *words)
    assert (record.result["step_mode"], set(launched.keys)) == ("eager", set())
    assert told_trouble(record) == ["the network draws random numbers"]


@everywhere
@pytest.mark.parametrize(
    "words",
    [
        words_of("csa"),  # whose class maps are gradients here
        ("method=ce", "protocol.crop_padding=0", "protocol.resized_crop=[0.5,1.0]", "protocol.colour_jitter=0.4"),
    ],
    ids=["csa", "imagenet's augmentation"],
)
def test_so_are_those_of_lenet(words, run, launched):
    words = (*words, "backbone=lenet", *FP32)
    eager, replayed = run("eager", *words, "runtime.step_mode=eager"), run("replayed", *words)
    assert (replayed.result["step_mode"], launched.eager) == ("graph", 0)
    assert_same(contents(replayed), contents(eager))


@on_gpu
@pytest.mark.parametrize("case", METHODS)
def test_again_or_stopped_and_continued_it_is_the_same_run(case, run, monkeypatch):
    words = (*words_of(case), "protocol.epochs=3", "protocol.stage_two.epochs=1")
    expected = contents(run("first", *words))
    assert_same(contents(run("again", *words)), expected)
    Stopper(monkeypatch, 2, 5, 9)
    assert_same(contents(run("stopped", *words, until_done=True)), expected)


@pytest.mark.parametrize(
    ("device", "word"),
    [
        ("cpu", "dataset.cache=memmap"),
        *(
            pytest.param("cuda", word, marks=GPU.marks)
            for word in ("runtime.workers=0", "runtime.workers=2", "dataset.cache=memmap")
        ),
    ],
)
def test_images_from_files(word, run, launched, tmp_path):
    """While evaluation is captured another thread pins the memory of the next images; a cache is as good as memory."""
    write_tree(tmp_path / "images", classes=4, largest=12, smallest=6, of_each=100, side=24)
    lists = [f"dataset.{part}_list=ImageNet_LT_{part}.txt" for part in ("train", "test")]
    words = ("dataset=list_files", f"dataset.root={tmp_path / 'images'}", "dataset.image_size=16", *lists)
    words += (f"dataset.cache_dir={tmp_path / 'cache'}", "backbone=lenet", *words_of("csa"), "protocol.epochs=2")
    record = run("files", *words, word, of_digits=False)
    assert not told_trouble(record)
    assert launched.keys.count("evaluation") >= 2 * 2  # of 400 images
    in_memory = word == "dataset.cache=memmap"
    assert record.result["step_mode"] == ("graph" if in_memory else "eager")


@everywhere
def test_an_evaluation_again_gives_the_recorded_scores(run):
    record = run("trained", *words_of("csa"), "backbone=lenet", "protocol.epochs=2")
    config = read_recorded(record.folder / "config.yaml")
    split = load_split(config.dataset, config.data_dir, download=False)
    again, _ = scores_on(record.folder, split.test_images, split.test_labels, config.runtime)
    recorded = record.result["heads"]
    assert {head: scores.as_dict() for head, scores in again.items()} == {
        head: recorded[head]["last"] for head in recorded
    }


def test_a_graph_is_refused_without_a_gpu(configuration):
    with pytest.raises(UserError, match=r"runtime\.step_mode=graph: runtime\.device=cpu has no graphs"):
        start(configuration("method=ce", "runtime.step_mode=graph", "runtime.device=cpu"))


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
@pytest.mark.parametrize(("device", "case"), [("cpu", "ce"), pytest.param("cuda", "csa", marks=GPU.marks)])
def test_a_compiled_run_differs_by_rounding(case, run):
    words = (*words_of(case), "backbone=lenet", "protocol.drop_last=true", *FP32)  # one shape to compile
    eager = run("eager", *words, "runtime.step_mode=eager")
    compiled = run("compiled", *words, "runtime.step_mode=compiled")
    assert compiled.result["step_mode"] == "compiled"
    assert compiled.folder.name == eager.folder.name  # no part of the identity
    assert largest_difference(eager, compiled) <= 1e-4


@pytest.mark.parametrize(("method", "backbone", "phases"), [("csa", "resnet32", 1), ("ldam_drw", "lenet", 2)])
def test_a_step_is_compiled_for_its_phases_not_for_every_epoch(method, backbone, phases, configuration, monkeypatch):
    compiled, compile_ = [], torch.compile

    def counting(graph, _inputs):
        compiled.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", functools.partial(compile_, backend=counting))
    words = (f"method={method}", f"backbone={backbone}", "protocol.drop_last=true", "runtime.step_mode=compiled")
    words += (SMALL_RESNET, "delta=0", "method.start_epoch=0") if method == "csa" else ()
    found, end_epoch = [], loop.Training._end_epoch

    def counted(training, *given):
        found.append(len(compiled))
        return end_epoch(training, *given)

    monkeypatch.setattr(loop.Training, "_end_epoch", counted)
    torch._dynamo.reset()
    start(configuration(*words, "protocol.epochs=5"))
    assert 0 < found[0] == found[3]
    assert found[4] == found[0] + phases - 1  # the last epoch of five has the second


# --- where the time goes --------------------------------------------------------------------


def test_a_profile_is_kept_in_the_record(configuration, tmp_path):
    record = start(configuration("method=ce", "backbone=lenet", "runtime.profile=true", "protocol.epochs=6"))
    table = (record.folder / "profile" / "operations.txt").read_text()
    assert "aten::convolution_backward" in table or "aten::mkldnn_convolution" in table
    assert len([line for line in table.splitlines() if "::" in line or "Optimizer" in line]) <= 10
    trace = json.loads((record.folder / "profile" / "trace.json").read_text())
    assert any(event.get("name", "").startswith("aten::") for event in trace["traceEvents"])
    assert where_profiled(record.folder).startswith(f"profile: {record.folder / 'profile'} (operations.txt")
    plain = start(configuration("method=ce", "backbone=lenet", f"output_root={tmp_path / 'plain'}"))
    assert not (plain.folder / "profile").exists()
    assert where_profiled(plain.folder) == "no profile: it needs 15 steps of training"


@on_gpu
def test_a_profile_of_replayed_steps_shows_their_launches(run):
    record = run("profiled", "method=ce", "runtime.profile=true", "protocol.epochs=8")
    names = {
        event.get("name") for event in json.loads((record.folder / "profile" / "trace.json").read_text())["traceEvents"]
    }
    assert "cudaGraphLaunch" in names
    assert (record.folder / "profile" / "operations.txt").stat().st_size > 0


@pytest.mark.parametrize("device", ["cpu"])
def test_what_cannot_be_captured_runs_eagerly_and_says_so(run, monkeypatch):
    class Refused:
        def __init__(self, _) -> None:
            raise RuntimeError("operation not permitted when stream is capturing")

    words = ("method=ce", "backbone=lenet")
    replayed = run("replayed", *words)
    monkeypatch.setattr(launching, "Graphs", functools.partial(Graphs, Refused))
    eager = run("eager", *words)
    assert eager.result["step_mode"] == "eager"
    assert told_trouble(eager) == ["operation not permitted when stream is capturing"]
    assert_same(contents(eager), contents(replayed))
