"""What a training process asks of its machine."""

from __future__ import annotations

import platform
import resource

import pytest
import torch

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
