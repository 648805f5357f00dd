"""What a training process asks of its machine."""

from __future__ import annotations

import math
import platform
import resource

import pytest
import torch

from csa.config import machine as of_the_system
from csa.config.machine import cores, free_memory, idle_cores
from csa.config.processes import SLOT_THREADS, Processes
from csa.training import machine


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


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, math.inf),
        ({"proc/meminfo": "MemTotal: 9000 kB\nMemAvailable:    4000 kB\n"}, 4_096_000),
        ({"sys/fs/cgroup/memory.max": "3000000\n", "sys/fs/cgroup/memory.stat": "anon 1000000\nfile 1900000\n"}, 2e6),
        ({"sys/fs/cgroup/memory.max": "max\n", "proc/meminfo": "MemAvailable: 4 kB\n"}, 4096),
        (
            {
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "3000000\n",
                "sys/fs/cgroup/memory/memory.stat": "cache 1\ntotal_rss 4000000\n",
            },
            0,
        ),
    ],
)
def test_free_memory_is_what_the_container_leaves(system, files, expected):
    system(files)
    assert free_memory() == expected


def test_threads_are_the_slots_or_the_idle_cores_or_a_part_of_all(monkeypatch):
    monkeypatch.setattr(machine, "idle_cores", lambda: 3)
    monkeypatch.setattr(machine, "cores", lambda: 8)
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert machine._threads(cpu, Processes()) == 3
    assert machine._threads(gpu, Processes()) == 8
    assert machine._threads(cpu, Processes(0, 4, 0, 2)) == 4
    monkeypatch.setenv(SLOT_THREADS, "2")
    assert machine._threads(cpu, Processes()) == machine._threads(gpu, Processes()) == 2
