"""What a training process asks of its machine."""

from __future__ import annotations

import math
import platform
import resource
from dataclasses import replace

import pytest
import torch

from csa.config import host as of_the_system
from csa.config.faults import UserError
from csa.config.host import SLOT_THREADS, World, cores, free_memory, idle_cores, total_memory
from csa.training import machine
from csa.training.checkpoint import arithmetic, refuse_other_arithmetic


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_freed_memory_is_kept():
    machine._keep_freed_memory()
    faulted = [pages_faulted_in_by_64_megabytes() for _ in range(10)]
    assert sum(faulted[5:]) < 8192  # given back to the kernel they would be 16,384 each time


def pages_faulted_in_by_64_megabytes() -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [torch.ones(2**21) for _ in range(8)]
    del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


# --- what the system tells of its cores and its memory -----------------------------------------


@pytest.fixture
def system(tmp_path, monkeypatch):
    """``system({"proc/stat": ...})``: a Linux that says so, on which this process may use cores 0 to 3."""
    monkeypatch.setattr(of_the_system, "SYSTEM", tmp_path)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2, 3})

    def tells(files: dict[str, str]) -> None:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    return tells


def processor(*busy: int) -> str:
    """/proc/stat of five cores, of which core ``n`` has been at work for ``busy[n]`` of so far 1000 ticks."""
    lines = [f"cpu{n} {work // 2} {work - work // 2} 0 {990 - work} 10 0 0 0 0 0" for n, work in enumerate(busy)]
    return "\n".join(["cpu  1 2 3 4 5 6 7 8 9 10", *lines, "intr 12 3"])


@pytest.mark.parametrize(
    ("busy", "expected"),
    [
        ((0, 0, 0, 0, 100), 4),  # what the fifth core does is no business of ours
        ((5, 5, 5, 5, 0), 4),
        ((100, 0, 0, 0, 0), 3),
        ((50, 50, 0, 0, 0), 3),  # one that wanders
        ((100, 100, 100, 40, 0), 1),
        ((100, 100, 100, 100, 0), 1),
    ],
)
def test_cores_that_do_something_else_are_not_counted(system, monkeypatch, busy, expected):
    system({"proc/stat": processor(0, 0, 0, 0, 0)})

    def later(_seconds):
        after = [line.split() for line in processor(*busy).splitlines()]
        for line in after[1:6]:
            line[4] = str(int(line[4]) + 100)  # of 100 ticks more, those without work
        system({"proc/stat": "\n".join(" ".join(line) for line in after)})

    monkeypatch.setattr("time.sleep", later)
    assert idle_cores() == expected


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 4),
        ({"cpu.max": "max 100000"}, 4),
        ({"cpu.max": "250000 100000"}, 2),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 4),
        ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
    ],
)
def test_cores_are_those_that_the_container_grants(system, files, expected):
    system({f"sys/fs/cgroup/{name}": text for name, text in files.items()})
    assert cores() == idle_cores() == expected  # nobody tells what they do: they all count


def test_macos_bounds_no_process_to_some_cores(tmp_path, monkeypatch):
    monkeypatch.setattr(of_the_system, "SYSTEM", tmp_path)
    monkeypatch.delattr("os.sched_getaffinity")
    monkeypatch.setattr("os.cpu_count", lambda: 10)
    assert cores() == idle_cores() == 10


@pytest.mark.parametrize(
    ("files", "expected", "total"),
    [
        ({}, math.inf, math.inf),
        ({"proc/meminfo": "MemTotal: 9000 kB\nMemAvailable:    4000 kB\n"}, 4_096_000, 9_216_000),
        (
            {"sys/fs/cgroup/memory.max": "3000000\n", "sys/fs/cgroup/memory.stat": "anon 1000000\nfile 1900000\n"},
            2e6,
            3e6,
        ),
        ({"sys/fs/cgroup/memory.max": "max\n", "proc/meminfo": "MemAvailable: 4 kB\n"}, 4096, math.inf),
        (
            {
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "3000000\n",
                "sys/fs/cgroup/memory/memory.stat": "cache 1\ntotal_rss 4000000\n",
            },
            0,
            3e6,
        ),
    ],
)
def test_memory_is_what_the_container_leaves(system, files, expected, total):
    system(files)
    assert (free_memory(), total_memory()) == (expected, total)


def test_threads_are_the_slots_or_the_idle_cores_or_a_part_of_all(monkeypatch):
    monkeypatch.setattr(machine, "idle_cores", lambda: 3)
    monkeypatch.setattr(machine, "cores", lambda: 8)
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert machine._threads(cpu, World()) == 3
    assert machine._threads(gpu, World()) == 8
    assert machine._threads(cpu, World(0, 4, 0, 2)) == 4
    monkeypatch.setenv(SLOT_THREADS, "2")
    assert machine._threads(cpu, World()) == machine._threads(gpu, World()) == 2


# --- what a run computes with ----------------------------------------------------------------


def test_fp32_is_fp32_on_a_gpu(configuration):
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    config = configuration("method=ce")
    machine.choose(config.runtime, config.protocol)
    settings = torch.backends.cudnn.conv, torch.backends.cudnn.rnn, torch.backends.cuda.matmul, torch.backends
    assert not any(setting.fp32_precision == "tf32" for setting in settings)
    assert not torch.backends.cudnn.allow_tf32  # where both ways of asking contradict one another this would raise
    assert not torch.backends.cuda.matmul.allow_tf32


@pytest.fixture
def on_a_mac(monkeypatch):
    """What Fabric is asked for, on a machine where torch sees an Apple GPU."""
    asked = {}
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(machine, "Fabric", lambda **words: asked.update(words))
    return asked


def test_an_apple_gpu_computes_in_fp32_eagerly_and_only_where_it_is_asked_for(configuration, on_a_mac):
    config = configuration("method=ce", "runtime.device=mps", "protocol.precision=auto")
    chosen = machine.choose(config.runtime, config.protocol)
    assert (chosen.device, chosen.precision, chosen.step_mode) == (torch.device("mps"), "fp32", "eager")
    assert (on_a_mac["accelerator"], on_a_mac["precision"]) == ("mps", "32-true")
    by_itself = configuration("method=ce", "runtime.device=auto")
    assert machine.choose(by_itself.runtime, by_itself.protocol).device.type != "mps"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["protocol.precision=bf16"],
            "protocol.precision=bf16: runtime.device=mps computes in fp32; allowed: auto, fp32",
        ),
        (
            ["runtime.step_mode=graph"],
            "runtime.step_mode=graph: runtime.device=mps has no graphs; allowed: auto, eager",
        ),
        ([], "runtime.device=mps: is for a run of one process; allowed: auto, cpu"),
    ],
)
def test_what_an_apple_gpu_does_not_do(words, message, configuration, on_a_mac, monkeypatch):
    monkeypatch.setattr(machine, "process_world", lambda: World(0, 2, 0, 2))
    config = configuration("method=ce", "runtime.device=mps", *words)
    with pytest.raises(UserError) as fault:
        machine.choose(config.runtime, config.protocol)
    assert str(fault.value).startswith(message)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            NotImplementedError("The operator 'aten::x' is not currently implemented for the MPS device. As a fix ..."),
            "The operator 'aten::x' is not currently implemented for the MPS device (PYTORCH_ENABLE_MPS_FALLBACK=1 ",
        ),
        (
            TypeError("Cannot convert a MPS Tensor to float64 dtype. Please use float32"),
            "Cannot convert a MPS Tensor to ",
        ),
    ],
)
def test_what_torch_lacks_there_is_one_fault(error, reason):
    with pytest.raises(UserError) as fault, machine.telling_what_mps_lacks(torch.device("mps")):
        raise error
    assert str(fault.value).startswith(f"runtime.device=mps: torch lacks something: {reason}")
    assert "\n" not in str(fault.value)
    for device, other in (
        ("cpu", error),
        ("mps", NotImplementedError("of ours")),
        ("mps", RuntimeError("MPS: memory")),
    ):
        with pytest.raises(type(other)), machine.telling_what_mps_lacks(torch.device(device)):
            raise other


@pytest.fixture
def chosen(configuration):
    config = configuration("method=ce")
    return config, machine.choose(config.runtime, config.protocol)


@pytest.mark.parametrize(
    ("key", "before", "told"),
    [
        ("threads", 3, "runtime.threads=1: this run was started with 3; continue it with that, or start over"),
        ("precision", "bf16", "protocol.precision=fp32: this run was started with bf16"),
        ("step_mode", "compiled", "runtime.step_mode=eager: this run was started with compiled"),
        ("torch", "2.3", f"torch={torch.__version__}: this run was started with 2.3; continue it with that"),
        ("instructions", "AVX1024", f"instructions={machine.instructions()}: this run was started with AVX1024"),
        ("processes", 2, "processes=1: this run was started with 2"),
    ],
)
def test_a_checkpoint_is_continued_in_its_own_arithmetic_alone(key, before, told, chosen):
    config, here = chosen
    here = replace(here, precision="fp32")
    state = arithmetic(here, config)
    refuse_other_arithmetic(state, here, config)
    with pytest.raises(UserError) as fault:
        refuse_other_arithmetic(state | {key: before}, here, config)
    assert str(fault.value).startswith(told)
    assert len(fault.value.faults) == 1


def test_a_graph_has_the_bits_of_eager_steps_and_an_older_checkpoint_says_less(chosen):
    config, here = chosen
    state = arithmetic(replace(here, step_mode="graph"), config)
    refuse_other_arithmetic(state, replace(here, step_mode="eager"), config)
    older = {key: state[key] for key in ("threads", "precision", "device")}
    refuse_other_arithmetic(older, replace(here, step_mode="compiled"), config)


def test_another_gpu_or_cudnn_is_another_arithmetic(chosen, monkeypatch):
    config, here = chosen
    here = replace(here, device=torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "one GPU")
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 90100)
    state = arithmetic(here, config)
    assert (state["gpu"], state["cudnn"]) == ("one GPU", 90100)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "another")
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 90200)
    with pytest.raises(UserError) as fault:
        refuse_other_arithmetic(state, here, config)
    assert [str(told).split(";")[0] for told in fault.value.faults] == [
        "gpu=another: this run was started with one GPU",
        "cudnn=90200: this run was started with 90100",
    ]
