"""A few steps of each kind of run, measured in a process of its own, so that planning imports no torch.

python -m csa.sweep.calibration     pickled configurations on stdin, what was measured as JSON on stdout
"""

from __future__ import annotations

import json
import math
import pickle
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, cast

from csa.sweep.splits import question_of_parent

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from csa.config.schema import Config, SamplerConfig
    from csa.data.batch import Batch, Epoch
    from csa.data.loader import Loader
    from csa.data.split import Split
    from csa.methods.method import Clock, Method
    from csa.training.loop import Training
    from csa.training.machine import Machine
    from csa.training.monitoring import Progress

WARM_STEPS = 2
LEAST_STEPS = {"cpu": 2, "cuda": 16, "mps": 16}
"""That are measured: a GPU that is waited for after each one would have nothing to do meanwhile."""
MOST_TIMES = 8
"""As many of these are the most."""
ENOUGH_SECONDS = 0.5
RATE = 1e-4
"""Learning rate: the network stays finite, and the work of a step is the same at any."""
PARTS = 3
"""A stage is measured in the middle of each of so many equal parts: methods change their step on the way."""
TEST_BATCHES = 1
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


class ShortLoader:
    """A loader whose epochs and tests end after a few steps; None: after all. What else is asked of it is whole.

    warming: an epoch has the first steps and the last, a batch of each size, so that nothing is compiled or captured
    in those that are measured. epoch_images: of the last epoch that was asked for, had it been whole.
    """

    epoch_images = 0

    def __init__(self, loader: Loader, steps: int | None, test_steps: int | None) -> None:
        self._loader, self.steps, self.test_steps, self.warming = loader, steps, test_steps, True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def epoch(self, streams: Mapping[str, SamplerConfig], stage: int, epoch: int) -> Epoch:
        whole = self._loader.epoch(streams, stage, epoch)
        sizes = whole.global_sizes
        self.epoch_images = sum(sizes)
        few = [*sizes[:WARM_STEPS], sizes[-1]] if self.warming else sizes[: self.steps]
        return replace(whole, global_sizes=few)

    def test_batches(self, batch_size: int, *, whole: bool = False) -> Iterator[Batch]:
        return islice(self._loader.test_batches(batch_size, whole=whole), self.test_steps)

    def holdout_batches(self, batch_size: int, *, whole: bool = False) -> Iterator[Batch]:
        return islice(self._loader.holdout_batches(batch_size, whole=whole), self.test_steps)


@contextmanager
def rehearsal(
    config: Config, method: Method, loader: ShortLoader, split: Split, machine: Machine, progress: Progress
) -> Iterator[Training]:
    """The loop of a run on a record that is thrown away."""
    from csa.config.identity import identity
    from csa.tracking.record import Record
    from csa.training.checkpoint import SharedStages
    from csa.training.loop import Training
    from csa.training.monitoring import Interruption

    with TemporaryDirectory() as folder:
        stages = SharedStages(Path(folder), identity(config, split.hash), machine)
        yield Training(
            config, method, cast("Loader", loader), split, machine=machine, record=Record(Path(folder)),
            shared_stages=stages, progress=progress, interruption=Interruption(),
        )  # fmt: skip


def measure(config: Config, threads: int) -> dict[str, Any]:
    """The loop for a few steps, at several places of each stage; every image is made to fit, so that CSA's bank fills.

    What prepares a stage, a pass over all images, is left out.
    """
    from csa.console import PlainConsole
    from csa.data.dataset import load_split
    from csa.data.streaming import open_loader
    from csa.methods.method import Clock, build_method
    from csa.training.machine import choose
    from csa.training.monitoring import Progress

    began = time.perf_counter()
    split = load_split(config.dataset, config.data_dir, download=False)
    loading = time.perf_counter() - began
    if hasattr(config.method, "delta"):
        config = replace(config, method=replace(config.method, delta=0.0))  # type: ignore[call-arg]
    runtime = replace(config.runtime, threads=config.runtime.threads or threads, checkpoint_seconds=math.inf)
    config = replace(config, runtime=replace(runtime, profile=False))
    machine = choose(config.runtime, config.protocol)
    method = build_method(config, split.image_shape, split.mean, split.std, split.counts)
    method.stages = tuple(replace(stage, lr=lambda _: RATE) for stage in method.stages)
    method.prepare, method.added_images = lambda *_: None, lambda *_: None  # type: ignore[method-assign]
    loader = open_loader(split, config.protocol, machine.device, config.seed, workers=machine.workers)
    short = ShortLoader(loader, None, TEST_BATCHES)
    stages = []
    progress = Progress(PlainConsole(quiet=True), method.stages, bars=False)
    with rehearsal(config, method, short, split, machine, progress) as training:
        for index, stage in enumerate(method.stages):
            training.enter(index)
            middles = {(2 * part + 1) * stage.epochs // (2 * PARTS) for part in range(PARTS)} if stage.epochs else ()
            clocks = [Clock(index, epoch, stage.epochs) for epoch in sorted(middles)]
            epochs = [_epoch(training, clock, short, machine, split) for clock in clocks] or [(0, 0.0, 0.0)]
            images, seconds, evaluation = (sum(values) / len(epochs) for values in zip(*epochs, strict=True))
            stages.append((round(images), seconds, evaluation))
    return {"stages": stages, "total": sum(split.counts), "beyond": loading}


def _epoch(
    training: Training, clock: Clock, loader: ShortLoader, machine: Machine, split: Split
) -> tuple[int, float, float]:
    """Images, seconds, and those of the evaluation of an epoch, from a few of its steps."""
    from csa.training.evaluation import EVALUATION_BATCH

    loader.warming = True
    warm = training.epoch(clock)
    least = LEAST_STEPS[machine.device.type]
    enough = ENOUGH_SECONDS * (WARM_STEPS + 1) / warm["seconds"]
    loader.warming, loader.steps = False, round(min(max(least, enough), MOST_TIMES * least))
    line = training.epoch(clock)
    parts = [len(split.test_labels)] + [len(split.holdout_labels)] * ("validation" in line)
    seen = sum(min(images, TEST_BATCHES * EVALUATION_BATCH) for images in parts)
    images = loader.epoch_images
    return images, line["seconds"] * images / line["images"], line["evaluation_seconds"] * sum(parts) / seen


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # of this process alone: no traceback where the parent was killed
    main()
