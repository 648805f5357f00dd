"""A step launched in another way is the same step: replayed like a graph, as a real CUDA graph, compiled."""

from __future__ import annotations

import functools
import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from same_run import assert_same, contents
from test_graphs import Recomputed
from test_resuming import EAGER, start

from csa.config.faults import UserError
from csa.data.loader import ResidentEpoch
from csa.training import checkpoint, machine, stepping
from csa.training.graphs import Graphs
from csa.training.profiling import where_profiled

FP32 = ("protocol.precision=fp32", "protocol.epochs=3", "protocol.stage_two.epochs=1")
AS_PRINTED = ("method.mask_pass=train", "method.start_epoch=0", "method.empty_bank=never")
WORDS = EAGER | {"csa as printed": (*EAGER["csa"], *AS_PRINTED)}


@pytest.fixture
def replaying(monkeypatch):
    """Runs on the processor go the way of graphs. Tells the keys of those launched, and how many steps were eager."""
    launched = SimpleNamespace(keys=[], eager=0)

    class Noted(Graphs):
        def __init__(self) -> None:
            super().__init__(Recomputed)

        def run(self, key, *rest):
            launched.keys.append(key)
            return super().run(key, *rest)

    def eager(epoch, number):
        launched.eager += 1
        return batches(epoch, number)

    batches = ResidentEpoch.batches
    monkeypatch.setattr(ResidentEpoch, "batches", eager)
    monkeypatch.setattr(machine, "_step_mode", lambda *_: "graph")
    monkeypatch.setattr(stepping, "Graphs", Noted)
    return launched


def words_of(case: str) -> tuple[str, ...]:
    return f"method={case.partition(' ')[0]}", *WORDS.get(case, ())


def weights(record) -> dict[str, torch.Tensor]:
    return {name: value.float() for name, value in checkpoint.load(record.checkpoint)["method"].items()}


def largest_difference(first, second) -> float:
    ours, theirs = weights(first), weights(second)
    assert ours.keys() == theirs.keys()
    return max(float((value - theirs[name]).abs().max()) for name, value in ours.items())


LAUNCHED = {
    "csa": {("opening", None), ("rest", "rests"), ("rest", "decays"), ("rest", "learns"), ("whole", "learns")},
    "csa as printed": {("whole", "learns")},
}
"""Parts of steps with what was decided. As printed a step reads in its middle, until the bank is once enough."""


@pytest.mark.parametrize("case", ["ce", *LAUNCHED, "csa_mixup", "crt", "bbn", "cmo", "ldam_drw", "m2m", "oltr", "fsa"])
def test_replayed_steps_are_the_same_run(case, configuration, tmp_path, request):
    words = (*words_of(case), "protocol.epochs=3")
    expected = contents(start(configuration(*words)))
    launched = request.getfixturevalue("replaying")
    replayed = start(configuration(*words, f"output_root={tmp_path / 'replayed'}"))
    assert replayed.result()["step_mode"] == "graph"
    assert "evaluation" in launched.keys
    steps = {(part, decision) for part, *_, decision in (key for key in launched.keys if key != "evaluation")}
    assert steps == LAUNCHED.get(case, steps)
    assert (launched.eager > 0) == (case == "csa as printed")
    assert_same(contents(replayed), expected)


def test_a_graph_is_refused_without_a_gpu(configuration):
    with pytest.raises(UserError, match=r"runtime\.step_mode=graph: runtime\.device=cpu has no graphs"):
        start(configuration("method=ce", "runtime.step_mode=graph", "runtime.device=cpu"))


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_a_compiled_run_differs_by_rounding(configuration, tmp_path):
    words = ("method=ce", "backbone=lenet", "protocol.drop_last=true", *FP32)  # one shape to compile
    eager = start(configuration(*words))
    compiled = start(configuration(*words, "runtime.step_mode=compiled", f"output_root={tmp_path / 'compiled'}"))
    assert compiled.result()["step_mode"] == "compiled"
    assert compiled.folder.name == eager.folder.name  # no part of the identity
    assert largest_difference(eager, compiled) <= 1e-4


@pytest.mark.parametrize(("method", "backbone"), [("csa", "resnet10"), ("ldam_drw", "lenet")])
def test_a_step_is_compiled_for_its_phases_not_for_every_epoch(method, backbone, configuration, tmp_path, monkeypatch):
    compiled, compile_ = [], torch.compile

    def counting(graph, _inputs):
        compiled.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", functools.partial(compile_, backend=counting))
    words = (f"method={method}", f"backbone={backbone}", "protocol.drop_last=true", "runtime.step_mode=compiled")
    words += ("delta=0", "method.start_epoch=0") if method == "csa" else ()
    found = []
    for epochs in (4, 10):
        torch._dynamo.reset()
        compiled.clear()
        start(configuration(*words, f"protocol.epochs={epochs}", f"output_root={tmp_path / str(epochs)}"))
        found.append(len(compiled))
    assert found[0] == found[1] > 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("method", ["ce", "csa", "csa_mixup", "crt", "bbn", "cmo", "ldam_drw", "m2m", "oltr", "fsa"])
def test_a_real_graph_is_the_same_run(method, configuration, tmp_path):
    words = (f"method={method}", *FP32, *WORDS.get(method, ()), "runtime.device=cuda")
    eager = start(configuration(*words, "runtime.step_mode=eager"))
    graph = start(configuration(*words, f"output_root={tmp_path / 'graph'}"))
    assert eager.result()["step_mode"] == "eager"
    assert graph.result()["step_mode"] == "graph"
    assert largest_difference(eager, graph) <= 1e-4


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


def test_what_cannot_be_captured_runs_eagerly_and_says_so(configuration, tmp_path, replaying, monkeypatch):
    class Refused:
        def __init__(self, *_) -> None:
            raise RuntimeError("operation not permitted when stream is capturing")

    words = ("method=ce", "backbone=lenet")
    replayed = start(configuration(*words))
    monkeypatch.setattr(stepping, "Graphs", functools.partial(Graphs, Refused))
    eager = start(configuration(*words, f"output_root={tmp_path / 'eager'}"))
    assert eager.result()["step_mode"] == "eager"
    said = "steps are launched kernel by kernel: operation not permitted when stream is capturing"
    assert (eager.folder / "log.txt").read_text().count(said) == 1
    assert_same(contents(eager), contents(replayed))
