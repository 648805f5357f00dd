"""The one training loop. It knows no method, data set or backbone by name.

    for each stage: for each epoch: for each step: loss -> backward -> optimiser's step
                                    evaluate, checkpoint, metrics line

Nothing in a step waits for the device: losses and measures are added up there and read once an epoch.
"""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import torch

from csa.methods.method import Clock, Step
from csa.randomness import seed_at, torch_generator
from csa.training import checkpoint
from csa.training.batch_norm import batch_statistics, refuse_single_images
from csa.training.evaluation import EVALUATION_BATCH, evaluate, outcome
from csa.training.launching import StepInputs
from csa.training.monitoring import Profiling, StoppedError, epoch_in_words
from csa.training.state import OpenEpoch, Position, TrainState

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from csa.config.schema import Config
    from csa.data.batch import Epoch
    from csa.data.loader import Loader
    from csa.data.split import Split
    from csa.methods.method import Method
    from csa.tracking.record import Record
    from csa.training.checkpoint import SharedStages
    from csa.training.evaluation import Evaluated, Outcome
    from csa.training.launching import Given, Tensors
    from csa.training.machine import Machine
    from csa.training.monitoring import Interruption, Progress

LOSS = ""
"""The name of the loss among the measures that a part of a step returns; no measure has it."""
ASK_EVERY = 8
"""Steps after which the processes of one run ask each other whether to save; each step would wait for the slowest."""


# --- one step -------------------------------------------------------------------------------


def train_step(state: TrainState, epoch: Epoch, number: int, rows: Tensors, clock: Clock) -> Step:
    """Loss, gradients, update. What it returns is overwritten by the next step.

    One launch; or two, with the host reading in between how the step goes on.
    """
    step, method, launch = StepInputs(epoch, number, rows), state.method, state.launcher.launch
    clock = replace(clock, decision=method.foreseen(clock, step.images))
    if clock.decision is not None:
        outputs = launch(step, clock, before_forward, update)
    else:
        outputs = launch(step, clock, before_forward)
        clock = replace(clock, decision=method.decision(clock, step.images))
        outputs |= launch(step, clock, update)
    return Step(outputs.pop(LOSS), outputs)


def before_forward(state: TrainState, given: Given, clock: Clock) -> Tensors:
    """What a method does before anything that has gradients, see ``Method.before_forward``."""
    with state.machine.autocast():
        return state.launcher.before_forward(given.batches, clock)


def update(state: TrainState, given: Given, clock: Clock) -> Tensors:
    """Loss, gradients, update."""
    with state.machine.autocast():
        loss, measures = state.launcher.forward(given.batches, given.rows, clock)
    if not state.machine.group.alone:
        loss = given.weight * loss
    state.machine.fabric.backward(loss)
    if state.protocol.clip_norm is not None:
        trained = [weights for group in state.optimiser.param_groups for weights in group["params"]]
        torch.nn.utils.clip_grad_norm_(trained, state.protocol.clip_norm)
    state.optimiser.step()
    if state.average is not None:
        state.average.update()
    state.optimiser.zero_grad(set_to_none=True)
    return {LOSS: loss, **measures}


# --- a run ----------------------------------------------------------------------------------


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
        underway: Callable[[], None] = lambda: None,
    ) -> None:
        """underway: called once, after the first step."""
        self._config, self._data, self._split, self._machine = config, loader, split, machine
        self._record, self._shared, self._progress, self._interruption = record, shared_stages, progress, interruption
        self._method, self._group = method, machine.group
        self._state = TrainState(method, config.protocol, machine)
        self._loader = loader  # of the stage: the data, and what the method adds to it
        self._underway: Callable[[], None] | None = underway
        self._saved_at = time.monotonic()
        self._profiling = Profiling(
            record.folder, machine.device, wanted=config.runtime.profile and machine.group.first
        )

    def run(self, saved: dict[str, Any] | None = None) -> Outcome:
        """Train to the end. saved: the checkpoint to go on from.

        Raises:
            NotFiniteError: a number is no longer finite.
            StoppedError: a signal asked to stop; the checkpoint is written.
            UserError: the method cannot be trained so.
        """
        state, stages = self._state, self._method.stages
        if saved is not None:
            state.load_state_dict(saved)
            self._record.log(f"continued at stage {state.at.stage}, epoch {state.at.epoch}, step {state.at.step}")
        self._record.write_metrics(state.history.lines)  # cut back to the checkpoint
        with self._profiling:
            for index in range(state.at.stage, len(stages)):
                self.enter(index, restored=saved is not None)
                saved = None
                for epoch in range(state.at.epoch, stages[index].epochs):
                    self.epoch(Clock(index, epoch, stages[index].epochs))
                self._leave(index)
        tested = self._on_test_images()
        if not state.history.best:  # the last stage had no epoch: its one evaluation is this
            state.history.note_best(tested.scores, 0)
        return outcome(state, tested, self._on_validation_images() if len(self._split.holdout_labels) else None)

    def enter(self, index: int, *, restored: bool = False) -> None:
        """Begin a stage, unless a checkpoint has brought it back, and gather its training images."""
        if not restored and self._state.enter(index, self._data, self._shared):
            self._record.write_metrics(self._state.history.lines)
            self._record.log(f"stage {self._state.stage.name!r} is taken from a finished run")
        added = self._method.added_images(index, self._data)
        self._loader = self._data if added is None else self._data.with_images(*added)
        if added is not None:  # the other steps were looked at before the first stage
            refuse_single_images(self._method, index, self._loader, self._split.image_shape)

    def _leave(self, index: int) -> None:
        self._state.keep()
        if self._state.stage.shared is not None or index + 1 == len(self._method.stages):
            self._save()  # first: killed behind ``keep`` and without it, it would take its own for another's
        if self._group.first:
            self._shared.keep(index, self._method, asdict(self._state.history))
        self._group.wait()

    # --- one epoch ------------------------------------------------------------------------

    def epoch(self, clock: Clock) -> dict[str, Any]:
        """From its first step, or where the checkpoint stopped, to its line in the record; returns that."""
        state, stage = self._state, self._state.stage
        state.set_rate(stage.lr(clock.epoch))
        epoch = self._loader.epoch(self._method.streams(clock), clock.stage, clock.epoch)
        draws = self._draws(clock, epoch.sizes)
        first = state.at.step
        if first == 0:
            self._method.begin_epoch(clock)
            state.open = OpenEpoch(torch.zeros(epoch.steps, device=self._machine.device))
        self._method.train_stage(clock.stage)
        self._progress.begin_epoch(stage.name, clock, epoch.sizes, first)
        started = time.monotonic()
        for step in range(first, epoch.steps):
            if stage.lr_each_step:
                state.set_rate(stage.lr(clock.epoch + step / epoch.steps))
            self._step(epoch, step, {name: row[step] for name, row in draws.items()}, clock)
            state.at.step = step + 1
            self._tell_of_step(epoch.sizes[step])
            if step + 1 < epoch.steps and self._wants_checkpoint():
                state.open.seconds += time.monotonic() - started
                started = time.monotonic()
                self._save()
        losses = self._group.summed(state.open.losses).cpu()  # the epoch's one wait for the device
        state.open.seconds += time.monotonic() - started
        return self._end_epoch(clock, losses, epoch.global_sizes)

    def _draws(self, clock: Clock, sizes: Sequence[int]) -> dict[str, Tensor]:
        # What a step draws belongs to this process's own batch: its permutations, its bank's contexts.
        own = () if self._group.first else ("process", self._group.rank)
        generator = torch_generator(self._config.seed, "draws", clock.stage, clock.epoch, *own)
        draws = self._method.draws(clock, sizes, generator)
        return {name: rows.to(self._machine.device) for name, rows in draws.items()}

    def _step(self, epoch: Epoch, step: int, rows: Tensors, clock: Clock) -> None:
        if self._state.launcher.random:  # drop path and its like draw from torch's own generators
            address = ("network", clock.stage, clock.epoch, step, self._group.rank)
            torch.manual_seed(seed_at(self._config.seed, *address))
        loss, measures = train_step(self._state, epoch, step, rows, clock)
        sums = self._state.open
        sums.losses[step] = loss / self._group.size
        for name, value in measures.items():
            # A sum of its own: the value's place is that of the next step's, too.
            sums.measures[name] = sums.measures.get(name, 0) + value

    def _tell_of_step(self, images: int) -> None:
        self._profiling.step()
        if self._underway is not None:
            self._underway()
            self._underway = None
        self._progress.step(images)

    def _end_epoch(self, clock: Clock, losses: Tensor, sizes: Sequence[int]) -> dict[str, Any]:
        state, stage = self._state, self._state.stage
        if state.launcher.trouble:
            self._record.log(f"steps are launched kernel by kernel: {state.launcher.trouble}")
            state.launcher.trouble = ""
        state.check_losses(losses)
        averaged = [] if state.average is None else state.average.averaged_statistics
        self._group.average([*batch_statistics(self._method), *averaged])
        started = time.monotonic()
        scores = self._on_test_images().scores
        line = {
            "stage": stage.name,
            "epoch": clock.epoch,
            "lr": stage.lr(clock.epoch),
            "loss": float((losses * torch.tensor(sizes)).sum() / sum(sizes)),
            **{
                name: float(self._group.summed(value)) / len(sizes) / self._group.size
                for name, value in sorted(state.open.measures.items())
            },
            "head": self._method.primary_head,
            "heads": {head: values.summary() for head, values in scores.items()},
            **self._validated(clock.epoch),
            "images": sum(sizes),
            "seconds": state.open.seconds,
            "evaluation_seconds": time.monotonic() - started,
        }
        state.check_means(line)
        state.history.lines.append(line)
        state.history.note_best(scores, clock.epoch)
        state.at, state.open = Position(clock.stage, clock.epoch + 1), OpenEpoch(torch.zeros(0))
        if self._wants_checkpoint():
            self._save()
        self._record.append_metrics(line)
        self._record.log(f"{stage.name} epoch {clock.epoch + 1}/{clock.epochs}  {epoch_in_words(line)}")
        self._progress.end_epoch(line)
        return line

    # --- evaluation -----------------------------------------------------------------------

    def _validated(self, epoch: int) -> dict[str, float]:
        """Accuracy on the validation images, by which the epoch may become the stage's best; where that is kept."""
        if self._state.best is None:
            return {}
        accuracy = self._on_validation_images().scores[self._method.primary_head].all
        self._state.offer(self._state.best, epoch, accuracy)
        return {"validation": accuracy}

    def _on_test_images(self) -> Evaluated:
        return evaluate(self._state, self._data.test_batches(EVALUATION_BATCH), self._split)

    def _on_validation_images(self) -> Evaluated:
        return evaluate(self._state, self._data.holdout_batches(EVALUATION_BATCH), self._split)

    # --- checkpoints ----------------------------------------------------------------------

    def _wants_checkpoint(self) -> bool:
        """Whether to save now: the same answer in all processes of a run, since they ask at the same steps."""
        if not self._group.alone and self._state.at.step % ASK_EVERY:  # 0: an epoch has ended
            return False
        waited = time.monotonic() - self._saved_at
        due = int(self._group.first and waited >= self._config.runtime.checkpoint_seconds)
        wanted = self._group.greatest(self._interruption.status or due)
        if wanted > 1:
            self._interruption.status = wanted  # another process of the run was asked to stop
        return wanted > 0

    def _save(self) -> None:
        """Write a checkpoint; then stop, if a signal asked for it."""
        self._state.check()
        saved = self._state.state_dict()
        if self._group.first:
            checkpoint.save(self._record.checkpoint, saved | checkpoint.arithmetic(self._machine, self._config))
        self._saved_at = time.monotonic()
        if self._interruption.status is not None:
            raise StoppedError(self._interruption.status)
