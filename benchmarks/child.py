"""Epochs of the product in a process of its own, measured from when it is told to begin.

python -m benchmarks.child csa 1 steps=20 ...     a variant, how many epochs, then the words of ``python -m benchmarks``
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.order import read_order

ROOT = Path(__file__).resolve().parents[1]
READY = "ready"


def environment() -> dict[str, str]:
    """In which a process anywhere finds this csa."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path}


def epochs_at_once(variant: str, words: Sequence[str], number: int, epochs: int) -> list[dict[str, Any]]:
    """So many processes that train so many epochs: all wait for each other, warm, before the first that is measured.

    Of each ``trained``, the images of an epoch, ``ends``, when it began and each of its epochs ended, and ``peak_mb``.
    """
    command = [sys.executable, "-m", "benchmarks.child", variant, str(epochs), *words]
    children = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(), text=True)
        for _ in range(number)
    ]
    for child in children:
        assert child.stdout is not None
        while child.stdout.readline() not in (f"{READY}\n", ""):
            pass
    for child in children:
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
    answers = [child.communicate()[0] for child in children]
    if any(child.returncode for child in children):
        raise RuntimeError(f"a process ended with status {[child.returncode for child in children]}: {command}")
    return [json.loads(answer.splitlines()[-1]) for answer in answers]


def main(variant: str, epochs: int, words: Sequence[str]) -> None:
    order = read_order(words)
    from benchmarks.images import split_of
    from benchmarks.product import product_epoch
    from csa.training.machine import choose

    config = order.configs[variant]
    split, _ = split_of(config)
    machine = choose(config.runtime, config.protocol)
    measured = product_epoch(config, split, machine, order.steps, wait_for_the_others, epochs)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"trained": measured.trained, "ends": measured.ends, "peak_mb": peak}))


def wait_for_the_others() -> None:
    print(READY, flush=True)
    sys.stdin.readline()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
