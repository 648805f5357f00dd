"""The one training loop. It knows no method, data set or backbone by name.

    for each stage: for each epoch: for each step: loss -> update
                                    evaluate, checkpoint, metrics line

Nothing in a step waits for the device: losses and measures are added up there and read once an epoch.
"""

from __future__ import annotations

import math
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from csa.methods.method import Clock
from csa.randomness import seed_at, torch_generator
from csa.training import checkpoint
from csa.training.checkpoint import History, OpenEpoch, Position, Standing, arithmetic
from csa.training.distributed import batch_statistics
from csa.training.evaluation import NotFiniteLogitsError, best_temperature, head_logits, head_scores
from csa.training.interruption import StoppedError
from csa.training.optimisation import BestNetwork, WeightAverage, make_optimiser
from csa.training.profiling import Profiling
from csa.training.progress import told
from csa.training.single_images import refuse_single_images, refuse_single_images_of_any_stage
from csa.training.stepping import Stepping

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from torch import Tensor

    from csa.config.schema import Config
    from csa.data.batch import Batch
    from csa.data.loader import Epoch, Loader
    from csa.data.split import Split
    from csa.methods.method import Method, Stage
    from csa.metrics import Scores
    from csa.tracking.record import Record
    from csa.training.interruption import Interruption
    from csa.training.machine import Machine
    from csa.training.progress import Progress
    from csa.training.shared_stages import SharedStages


EVALUATION_BATCH = 250
"""Images of one forward pass in evaluation; the result does not depend on it."""


ASK_EVERY = 8
"""Steps after which the processes of one run ask each other whether to save; each step would wait for the slowest."""


def _nothing() -> None:
    pass


class NotFiniteError(Exception):
    """A loss, a mean of an epoch, a weight or an output is not finite; the message names where."""


@dataclass
class Outcome:
    """The trained method's last evaluation; holdout, temperatures: on the validation images, empty without any.

    step_mode: how the steps of the last stage were launched.
    """

    scores: dict[str, Scores]
    holdout: dict[str, Scores]
    temperatures: dict[str, float]
    logits: dict[str, Tensor]
    labels: Tensor
    history: History
    step_mode: str


class Training:
    """One run from its first step, or its checkpoint, to its last."""

    def __init__(
        self,
        config: Config,
        method: Method,
        loader: Loader,
        split: Split,
        *,
        machine: Machine,
        record: Record,
        shared_stages: SharedStages,
        progress: Progress,
        interruption: Interruption,
        underway: Callable[[], None] = _nothing,
    ) -> None:
        """underway: called once, after the first step."""
        self._config, self._data, self._split, self._machine = config, loader, split, machine
        self._method = method
        self._record, self._shared, self._progress, self._interruption = record, shared_stages, progress, interruption
        self._underway = underway
        self._history = History()
        self._at = Position()
        self._loader: Loader  # of the stage: the data, and what the method adds to it
        self._optimiser: torch.optim.Optimizer
        self._average: WeightAverage | None = None  # of the stage's weights
        self._best: BestNetwork | None = None  # of the stage, where that is what is kept
        self._open = OpenEpoch(torch.zeros(0))
        self._saved_at = time.monotonic()
        self._group = machine.group
        self._stepping: Stepping  # of the stage
        wanted = config.runtime.profile and machine.group.first
        self._profiling = Profiling(record.folder, machine.device, wanted=wanted)

    def run(self, state: dict[str, Any] | None = None) -> Outcome:
        """Train to the end. state: of the checkpoint to go on from.

        Raises:
            NotFiniteError: a number is no longer finite.
            StoppedError: a signal asked to stop; the checkpoint is written.
            UserError: the method cannot be trained so.
        """
        self._restore(state)
        if state is None:
            refuse_single_images_of_any_stage(self._method, self._data, self._split.image_shape)
        with self._profiling:
            for index in range(self._at.stage, len(self._method.stages)):
                self._enter(index, state)
                state = None
                stage = self._method.stages[index]
                for number in range(self._at.epoch, stage.epochs):
                    self._epoch(stage, Clock(index, number, stage.epochs))
                if self._average is not None:
                    self._average.adopt()
                if self._best is not None:
                    self._best.adopt()
                if stage.shared is not None or index + 1 == len(self._method.stages):
                    self._save()  # first: killed behind ``keep`` and without it, it would take its own for another's
                if self._group.first:
                    self._shared.keep(index, self._method, asdict(self._history))
                self._group.wait()
        scores, logits, labels = self._evaluate(self._data.test_batches(EVALUATION_BATCH))
        if not self._history.best:  # the last stage had no epoch: its one evaluation is this
            self._note_best(scores, 0)
        holdout, temperatures = self._validated() if len(self._split.holdout_labels) else ({}, {})
        joined = self._group.joined
        logits = {head: joined(outputs) for head, outputs in logits.items()}
        return Outcome(scores, holdout, temperatures, logits, joined(labels), self._history, self._stepping.mode)

    def _validated(self) -> tuple[dict[str, Scores], dict[str, float]]:
        """Scores of each head on the validation images, and the temperature that suits it there."""
        scores, logits, labels = self._on_validation_images()
        joined = self._group.joined
        known = joined(labels)
        return scores, {
            head: best_temperature(self._method, joined(outputs), known) for head, outputs in logits.items()
        }

    def _evaluate(self, batches: Iterable[Batch]) -> tuple[dict[str, Scores], dict[str, Tensor], Tensor]:
        """Scores on all processes' images; logits and labels of this one's."""
        with self._as_kept():
            logits, labels = head_logits(self._method, self._stepping.logits, batches)
        groups = vars(self._split.by_rank), vars(self._split.by_count)
        try:
            return head_scores(self._method, logits, labels, *groups, self._group), logits, labels
        except NotFiniteLogitsError as error:
            raise self._not_finite(str(error)) from error

    def _on_validation_images(self) -> tuple[dict[str, Scores], dict[str, Tensor], Tensor]:
        return self._evaluate(self._data.holdout_batches(EVALUATION_BATCH))

    def _as_kept(self) -> AbstractContextManager[None]:
        """Inside, the method computes with the weights that would be kept if training ended now."""
        return nullcontext() if self._average is None else self._average.in_place()

    # --- stages ---------------------------------------------------------------------------

    def _enter(self, index: int, state: dict[str, Any] | None) -> None:
        """Prepare the networks and the optimiser of a stage, fresh or from a checkpoint."""
        if state is None:
            self._method.enter_stage(index)
            self._at = Position(stage=index)
            self._history.best = {}
            self._reuse(index)
        else:
            for earlier in range(index + 1):
                self._method.enter_stage(earlier)
            self._method.load_state_dict(state["method"])
            self._group.load_own_state(self._method, state.get("processes_state", []))
        self._method.to(device=self._machine.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if state is None and self._at.epoch == 0:
            self._prepare(index)
        added = self._method.added_images(index, self._data)
        self._loader = self._data
        if added is not None:  # the other steps were looked at before the first stage
            self._loader = self._data.with_images(*added)
            refuse_single_images(self._method, index, self._loader, self._split.image_shape)
        protocol = self._config.protocol
        self._optimiser = make_optimiser(self._method, index, protocol)
        self._average = None if protocol.ema is None else WeightAverage(self._method, protocol.ema)
        self._best = None if protocol.choose == "last" else BestNetwork(self._method)
        if state is not None:
            self._optimiser.load_state_dict(state["optimiser"])
            if self._average is not None:
                self._average.load_state_dict(state["average"][self._group.rank])
            if self._best is not None:
                self._best.load_state_dict(state["best_network"][self._group.rank])
        self._stepping = Stepping(
            self._method, self._optimiser, self._machine, clip_norm=protocol.clip_norm, average=self._average
        )

    def _reuse(self, index: int) -> None:
        """Start from another run's finished stage where there is one."""
        finished = self._shared.load(index, self._method)
        if finished is not None:
            self._history = History(**finished)
            self._history.reused_epochs = len(self._history.lines)
            self._record.write_metrics(self._history.lines)
            self._record.log(f"stage {self._method.stages[index].name!r} is taken from a finished run")
            self._at = Position(index, self._method.stages[index].epochs)

    @torch.no_grad()
    def _prepare(self, index: int) -> None:
        self._method.eval()
        with self._machine.autocast():
            self._method.prepare(index, self._data)

    # --- one epoch ------------------------------------------------------------------------

    def _epoch(self, stage: Stage, clock: Clock) -> None:
        self._stepping.set_rate(stage.lr(clock.epoch))
        epoch = self._loader.epoch(self._method.streams(clock), clock.stage, clock.epoch)
        draws = self._draws(clock, epoch.sizes)
        first = self._at.step
        if first == 0:
            self._method.begin_epoch(clock)
            self._open = OpenEpoch(torch.zeros(epoch.steps, device=self._machine.device))
        self._method.train_stage(clock.stage)
        self._progress.begin_epoch(stage.name, clock, epoch.sizes, first)
        started = time.monotonic()
        for step in range(first, epoch.steps):
            if stage.lr_each_step:
                self._stepping.set_rate(stage.lr(clock.epoch + step / epoch.steps))
            rows = {name: row[step] for name, row in draws.items()}
            self._step(epoch, step, rows, clock)
            self._profiling.step()
            self._underway()
            self._underway = _nothing
            self._progress.step(epoch.sizes[step])
            self._at.step = step + 1
            if step + 1 < epoch.steps and self._wants_checkpoint():
                self._open.seconds += time.monotonic() - started
                started = time.monotonic()
                self._save()
        losses = self._group.summed(self._open.losses).cpu()  # the epoch's one wait for the device
        self._open.seconds += time.monotonic() - started
        if self._stepping.trouble:
            self._record.log(f"steps are launched kernel by kernel: {self._stepping.trouble}")
            self._stepping.trouble = ""
        self._end_epoch(stage, clock, losses, epoch.global_sizes)

    def _draws(self, clock: Clock, sizes: Sequence[int]) -> dict[str, Tensor]:
        # What a step draws belongs to this process's own batch: its permutations, its bank's contexts.
        own = () if self._group.first else ("process", self._group.rank)
        generator = torch_generator(self._config.seed, "draws", clock.stage, clock.epoch, *own)
        draws = self._method.draws(clock, sizes, generator)
        return {name: rows.to(self._machine.device) for name, rows in draws.items()}

    def _step(self, epoch: Epoch, step: int, rows: Mapping[str, Tensor], clock: Clock) -> None:
        if self._stepping.random:  # drop path and its like draw from torch's own generators
            address = ("network", clock.stage, clock.epoch, step, self._group.rank)
            torch.manual_seed(seed_at(self._config.seed, *address))
        loss, measures = self._stepping.step(epoch, step, rows, clock)
        self._open.losses[step] = loss / self._group.size
        for name, value in measures.items():
            # A sum of its own: the value's place is that of the next step's, too.
            self._open.measures[name] = self._open.measures.get(name, 0) + value

    def _end_epoch(self, stage: Stage, clock: Clock, losses: Tensor, sizes: Sequence[int]) -> None:
        self._check_losses(losses)
        averaged = [] if self._average is None else self._average.averaged_statistics
        self._group.average([*batch_statistics(self._method), *averaged])
        started = time.monotonic()
        scores, _, _ = self._evaluate(self._data.test_batches(EVALUATION_BATCH))
        line = {
            "stage": stage.name,
            "epoch": clock.epoch,
            "lr": stage.lr(clock.epoch),
            "loss": float((losses * torch.tensor(sizes)).sum() / sum(sizes)),
            **{
                name: float(self._group.summed(value)) / len(sizes) / self._group.size
                for name, value in sorted(self._open.measures.items())
            },
            "head": self._method.primary_head,
            "heads": {head: values.summary() for head, values in scores.items()},
            **self._offered(stage, clock.epoch),
            "images": sum(sizes),
            "seconds": self._open.seconds,
            "evaluation_seconds": time.monotonic() - started,
        }
        for name, value in line.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise self._not_finite(f"{name} is {value} in the epoch's mean")
        self._history.lines.append(line)
        self._note_best(scores, clock.epoch)
        self._at = Position(clock.stage, clock.epoch + 1)
        self._open = OpenEpoch(torch.zeros(0))
        if self._wants_checkpoint():
            self._save()
        self._record.append_metrics(line)
        self._record.log(f"{stage.name} epoch {clock.epoch + 1}/{clock.epochs}  {told(line)}")
        self._progress.end_epoch(line)

    def _offered(self, stage: Stage, epoch: int) -> dict[str, float]:
        """Accuracy on the validation images, by which the epoch may become the stage's best; where that is kept."""
        if self._best is None:
            return {}
        accuracy = self._on_validation_images()[0][self._method.primary_head].all
        with self._as_kept():
            self._best.offer(epoch, accuracy)
        assert self._best.epoch is not None
        self._history.chosen[stage.name] = self._best.epoch
        return {"validation": accuracy}

    def _check_losses(self, losses: Tensor) -> None:
        bad = (~losses.isfinite()).nonzero()
        if len(bad):
            raise self._not_finite(f"the loss is {float(losses[bad[0, 0]])}", step=int(bad[0, 0]))

    def _check_standing(self) -> None:
        """A checkpoint must not keep a network that is no longer finite; a step's loss does not tell of its update."""
        self._check_losses(self._group.summed(self._open.losses).cpu())
        if not bool(torch.stack([weights.isfinite().all() for weights in self._method.parameters()]).all()):
            raise self._not_finite("a weight is not finite", step=self._at.step)

    def _not_finite(self, what: str, *, step: int | None = None) -> NotFiniteError:
        stage = self._method.stages[self._at.stage]
        epoch = min(self._at.epoch, max(stage.epochs - 1, 0))
        where = f"stage {stage.name!r}, epoch {epoch}" + ("" if step is None else f", step {step}")
        last = checkpoint.load_newest(self._record.checkpoint)[0]
        good = f"the last good checkpoint is of epoch {last['at']['epoch']}" if last else "there is no checkpoint yet"
        return NotFiniteError(f"{what} at {where}, learning rate {stage.lr(epoch):g}; {good}")

    def _note_best(self, scores: dict[str, Scores], epoch: int) -> None:
        for head, values in scores.items():
            if head not in self._history.best or values.all > self._history.best[head]["all"]:
                self._history.best[head] = {"epoch": epoch, **values.as_dict()}

    # --- checkpoints ----------------------------------------------------------------------

    def _wants_checkpoint(self) -> bool:
        """Whether to save now: the same answer in all processes of a run, since they ask at the same steps."""
        if not self._group.alone and self._at.step % ASK_EVERY:  # 0: an epoch has ended
            return False
        waited = time.monotonic() - self._saved_at
        due = int(self._group.first and waited >= self._config.runtime.checkpoint_seconds)
        wanted = self._group.greatest(self._interruption.status or due)
        if wanted > 1:
            self._interruption.status = wanted  # another process of the run was asked to stop
        return wanted > 0

    def _save(self) -> None:
        """Write a checkpoint; then stop, if a signal asked for it."""
        self._check_standing()
        standing = Standing(self._at, self._history, self._open)
        state = standing.packed(self._method, self._optimiser, self._group)
        if self._average is not None:
            state["average"] = self._group.everyones(self._average.state_dict())
        if self._best is not None:
            state["best_network"] = self._group.everyones(self._best.state_dict())
        if self._group.first:
            checkpoint.save(self._record.checkpoint, state | arithmetic(self._machine, self._config))
        self._saved_at = time.monotonic()
        if self._interruption.status is not None:
            raise StoppedError(self._interruption.status)

    def _restore(self, state: dict[str, Any] | None) -> None:
        """Stand where the checkpoint does, and cut the metrics file back to it."""
        if state is not None:
            standing = Standing.unpacked(state, self._machine)
            self._at, self._history, self._open = standing.at, standing.history, standing.open
            self._record.log(f"continued at stage {self._at.stage}, epoch {self._at.epoch}, step {self._at.step}")
        self._record.write_metrics(self._history.lines)
