"""A few steps of each kind of run, measured in a process of its own, so that planning imports no torch.

python -m csa.sweep.calibration     pickled configurations on stdin, what was measured as JSON on stdout
"""

from __future__ import annotations

import json
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING, Any

from csa.sweep.splits import question_of_parent

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from csa.config.schema import Config
    from csa.data.loader import Loader
    from csa.methods.method import Clock, Method
    from csa.training.machine import Machine
    from csa.training.stepping import Stepping

WARM_UPS, MOST_BLOCKS = 2, 8
BLOCK = {"cpu": 1, "cuda": 16, "mps": 16}
"""Steps between two looks at the clock: a GPU that is waited for at every one would have nothing to do meanwhile."""
ENOUGH_SECONDS = 0.5
RATE = 1e-4
"""Learning rate: the network stays finite, and the work of a step is the same at any."""
PARTS = 3
"""A stage is measured in the middle of each of so many equal parts: methods change their step on the way."""
EVALUATION_BATCHES = 3
AROUND_SECONDS = 2.5  # of a run: reading the command line, writing the record


def calibrate(configs: dict[str, Config], threads: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each name as it is measured: ``stages`` (images, seconds, evaluation seconds of an epoch), ``total``, ``beyond``.

    A kind that cannot be measured is left out.
    """
    question = {"configs": configs, "threads": threads, "started": time.time()}
    with subprocess.Popen(
        [sys.executable, "-m", "csa.sweep.calibration"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            with process.stdin as stdin:
                stdin.write(pickle.dumps(question))
            for line in process.stdout:
                yield from json.loads(line).items()
        finally:
            process.kill()  # it has ended, or nobody asks any longer


def main() -> None:
    question = question_of_parent()
    import csa.training.session  # noqa: F401 (what a run imports)

    start_up = time.time() - question["started"] + AROUND_SECONDS
    stdout, sys.stdout = sys.stdout, sys.stderr
    for name, config in question["configs"].items():
        try:
            answer = measure(config, question["threads"])
        except Exception as error:
            print(f"{name}: {error}", file=sys.stderr)
            continue
        answer["beyond"] += start_up
        print(json.dumps({name: answer}), file=stdout, flush=True)


def measure(config: Config, threads: int) -> dict[str, Any]:
    """Steps as in training, at several places of each stage; every image is made to fit, so that CSA's bank fills."""
    from csa.data.dataset import load_split
    from csa.data.streaming import open_loader
    from csa.methods.method import build_method
    from csa.training.machine import choose

    began = time.perf_counter()
    split = load_split(config.dataset, config.data_dir, download=False)
    loading = time.perf_counter() - began
    if hasattr(config.method, "delta"):
        config = replace(config, method=replace(config.method, delta=0.0))  # type: ignore[call-arg]
    runtime = replace(config.runtime, threads=config.runtime.threads or threads)
    machine = choose(runtime, config.protocol)
    method = build_method(config, split.image_shape, split.mean, split.std, split.counts)
    loader = open_loader(split, config.protocol, machine.device, config.seed, workers=machine.workers)
    stages = [
        _stage(index, config, method, loader, machine, len(split.test_labels)) for index in range(len(method.stages))
    ]
    return {"stages": stages, "total": sum(split.counts), "beyond": loading}


def _stage(
    index: int, config: Config, method: Method, loader: Loader, machine: Machine, test_images: int
) -> tuple[int, float, float]:
    import torch

    from csa.methods.method import Clock
    from csa.training.optimisation import WeightAverage, make_optimiser
    from csa.training.stepping import Stepping

    method.enter_stage(index)
    method.to(device=machine.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    protocol = config.protocol
    average = None if protocol.ema is None else WeightAverage(method, protocol.ema)
    optimiser = make_optimiser(method, index, protocol)
    stepping = Stepping(method, optimiser, machine, clip_norm=protocol.clip_norm, average=average)
    stepping.set_rate(RATE)
    epochs = method.stages[index].epochs
    places = sorted({(2 * part + 1) * epochs // (2 * PARTS) for part in range(PARTS)})
    measured = [_epoch(Clock(index, place, epochs), config, method, loader, machine, stepping) for place in places]
    images, seconds = (sum(values) / len(measured) for values in zip(*measured, strict=True))
    return round(images), seconds, _evaluation_seconds(method, loader, machine, stepping, test_images)


def _epoch(
    clock: Clock, config: Config, method: Method, loader: Loader, machine: Machine, stepping: Stepping
) -> tuple[int, float]:
    """Images and seconds of an epoch, from a few of its steps, launched as a run launches them."""
    from csa.randomness import torch_generator

    epoch = loader.epoch(method.streams(clock), clock.stage, clock.epoch)
    draws = method.draws(clock, epoch.sizes, torch_generator(config.seed, "draws", clock.stage, clock.epoch))
    draws = {name: rows.to(machine.device) for name, rows in draws.items()}
    method.begin_epoch(clock)
    method.train_stage(clock.stage)

    def step(number: int) -> Tensor:
        return stepping.step(epoch, number, {name: rows[number] for name, rows in draws.items()}, clock).loss

    def seconds(numbers: Sequence[int]) -> float:
        began = time.perf_counter()
        losses = [step(number) for number in numbers]
        float(losses[-1])  # waits for the device
        return time.perf_counter() - began

    whole = max(1, epoch.steps - 1)  # but the last, which may be smaller
    for _ in range(WARM_UPS):
        seconds([epoch.steps - 1, 0])  # whatever is compiled or captured for a shape is now
    block = BLOCK[machine.device.type]
    times: list[float] = []
    while len(times) < MOST_BLOCKS and sum(times) <= ENOUGH_SECONDS:
        first = len(times) * block
        times.append(seconds([number % whole for number in range(first, first + block)]) / block)
    return sum(epoch.sizes), median(times) * epoch.steps


def _evaluation_seconds(
    method: Method, loader: Loader, machine: Machine, stepping: Stepping, test_images: int
) -> float:
    from csa.training.evaluation import EVALUATION_BATCH, head_logits

    batches = []
    for batch in loader.test_batches(EVALUATION_BATCH):
        batches.append(batch)
        if len(batches) == EVALUATION_BATCHES:
            break
    head_logits(method, stepping.logits, batches[:1])
    began = time.perf_counter()
    logits, _ = head_logits(method, stepping.logits, batches)
    float(logits[method.primary_head][-1, 0])  # waits for the device
    seen = sum(len(batch[1]) for batch in batches)
    return (time.perf_counter() - began) * test_images / seen


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # of this process alone: no traceback where the parent was killed
    main()
