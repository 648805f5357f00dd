"""What is captured, when, and how a capture that fails is left: on stand-ins, and on a GPU where there is one."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest
import torch

from csa.training.launching import Graphs, NotCapturedError


class Recomputed:
    """Behaves as a graph on a device does, but for its speed."""

    def __init__(self, work) -> None:
        self.replay = work


def test_a_key_is_captured_once_and_capturing_changes_nothing():
    total, warm = torch.zeros(()), []

    def add(given):
        warm.append(float(given["value"]))
        total.add_(given["value"].sum())
        return {"total": total * 1}

    graphs = Graphs(Recomputed)
    seen = [
        float(graphs.run("add", {"value": torch.tensor(value)}, add, lambda: [total])["total"])
        for value in (1.0, 2.0, 4.0)
    ]
    assert seen == [1.0, 3.0, 7.0]
    assert warm == [1.0, 1.0, 1.0, 1.0, 2.0, 4.0]
    graphs.run("add", {"value": torch.ones(1)}, add, lambda: [total])  # another shape is another graph
    assert len(warm) == 10


def test_outputs_stay_until_the_same_key_runs_again():
    """They are no memory of the graph's own, which other graphs of the pool may use."""
    made = []

    def double(given):
        made.append(given["x"] * 2)
        return {"y": made[-1]}

    graphs = Graphs(Recomputed)
    first = graphs.run("first", {"x": torch.ones(2)}, double, list)
    for scratch in made:
        scratch.fill_(9)
    graphs.run("second", {"x": torch.zeros(2)}, double, list)
    assert first["y"].tolist() == [2, 2]
    graphs.run("first", {"x": torch.full((2,), 3.0)}, double, list)
    assert first["y"].tolist() == [6, 6]


class Device:
    """``torch.cuda`` as far as capturing asks for it. tidy: whether a capture that fails is left as before it."""

    def __init__(self, tidy: bool) -> None:
        self.tidy, self.stream, self.allocating, self.modes = tidy, "main", set(), []
        self.pools = 0

    def graph_pool_handle(self) -> tuple[int, int]:
        self.pools += 1
        return 0, self.pools

    def graph(self, _graph, pool, capture_error_mode):
        device = self

        class Capture:
            def __enter__(self) -> None:
                if device.allocating:  # emptying the cache
                    raise RuntimeError("captures_underway.empty() INTERNAL ASSERT FAILED")
                assert device.stream == "main"
                device.stream = "capture"
                device.allocating.add(pool)
                device.modes.append(capture_error_mode)

            def __exit__(self, kind, *_) -> None:
                if kind is None or device.tidy:
                    device.allocating.remove(pool)
                    device.stream = "main"
                if kind is not None:
                    raise RuntimeError("operation failed due to a previous error during capture")

        return Capture()

    def end_allocating(self, index: int, pool: tuple[int, int]) -> None:
        assert index == 0
        if pool not in self.allocating:
            raise RuntimeError("not currently recording to this pool")
        self.allocating.remove(pool)

    def stand_in(self, monkeypatch) -> None:
        monkeypatch.setattr(torch.cuda, "graph_pool_handle", self.graph_pool_handle)
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: SimpleNamespace(replay=lambda: None))
        monkeypatch.setattr(torch.cuda, "graph", self.graph)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(device_index=0, name=self.stream))
        monkeypatch.setattr(torch.cuda, "set_stream", lambda stream: setattr(self, "stream", stream.name))
        monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", self.end_allocating, raising=False)


def run(graphs: Graphs, key: str, compute=lambda given: {"y": given["x"] * 2}):
    return graphs.run(key, {"x": torch.ones(1)}, compute, list)


@pytest.mark.parametrize("tidy", [True, False])
def test_after_a_capture_that_failed_the_next_one_works(tidy, monkeypatch):
    """As torch 2.15 leaves it, and as 2.11 does: on the capture's stream, allocating to its pool."""
    device = Device(tidy)
    device.stand_in(monkeypatch)

    def waits(given):
        if device.stream == "capture":
            raise RuntimeError("operation not permitted when stream is capturing\nSearch for it in the manual")
        return {"y": given["x"]}

    with pytest.raises(NotCapturedError, match=r"^operation not permitted when stream is capturing$"):
        run(Graphs(), "waits", waits)
    assert device.stream == "main"
    assert not device.allocating
    assert run(Graphs(), "fine")["y"].tolist() == [2]
    assert device.stream == "main"


def test_what_refuses_to_begin_says_why(monkeypatch):
    device = Device(tidy=True)
    device.stand_in(monkeypatch)
    device.allocating.add("another's")
    with pytest.raises(NotCapturedError, match="captures_underway"):
        run(Graphs(), "first")
    assert device.allocating == {"another's"}


def test_an_error_that_is_none_of_the_device_s_is_not_hidden(monkeypatch):
    device = Device(tidy=False)
    device.stand_in(monkeypatch)

    def mistaken(given):
        return {"y": given["x"] if device.stream == "main" else given["z"]}

    with pytest.raises(KeyError, match="z"):
        run(Graphs(), "mistaken", mistaken)
    assert (device.stream, device.allocating) == ("main", set())


def test_graphs_share_a_pool_and_let_other_threads_go_on(monkeypatch):
    device = Device(tidy=True)
    device.stand_in(monkeypatch)
    graphs = Graphs()
    for key in ("step", "evaluation"):
        run(graphs, key)
    assert device.pools == 1
    assert device.modes == ["thread_local"] * 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_so_it_is_on_a_gpu():
    x, before = torch.ones(4, device="cuda"), torch.cuda.current_stream()
    with pytest.raises(NotCapturedError, match="captur"):
        Graphs().run("waits", {"x": x}, lambda given: {"y": given["x"] * float(given["x"].sum())}, list)
    assert torch.cuda.current_stream() == before
    torch.cuda.empty_cache()
    for _ in range(2):
        outputs = Graphs().run("fine", {"x": x}, lambda given: {"y": given["x"] * 2}, list)
        assert outputs["y"].tolist() == [2] * 4


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_many_graphs_need_the_memory_of_one():
    """Each of eight needs four times its input on the way; their outputs stay apart."""
    graphs, x = Graphs(), torch.ones(2**25, device="cuda")  # 128 MiB

    def compute(number, given):
        return {"y": ((given["x"] + number).sqrt().double() + 1).mean()}

    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    found = [graphs.run(number, {"x": x}, partial(compute, number), list)["y"] for number in range(8)]
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() - before < 20 * x.nbytes  # eight inputs among them
    assert [float(value) for value in found] == [float(compute(number, {"x": x})["y"]) for number in range(8)]
