"""All that training goes on from, and a checkpoint keeps: what trains in the stage at hand, and where it stands."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch

from csa.training.launching import Launcher
from csa.training.optimisation import BestNetwork, WeightAverage, make_optimiser

if TYPE_CHECKING:
    from torch import Tensor

    from csa.config.schema import ProtocolConfig
    from csa.data.loader import Loader
    from csa.methods.method import Method, Stage
    from csa.metrics import Scores
    from csa.training.checkpoint import SharedStages
    from csa.training.machine import Machine


class NotFiniteError(Exception):
    """A loss, a mean of an epoch, a weight or an output is not finite; the message names where."""


@dataclass
class Position:
    """The next step to take: ``epoch`` and ``step`` within ``stage``; all count from 0."""

    stage: int = 0
    epoch: int = 0
    step: int = 0


@dataclass
class History:
    """What training has produced so far.

    lines: one an epoch, as in metrics.jsonl. best: of each head in the current stage, the epoch that
    was best on the test set, with its scores: what released code reports, under that name.
    reused_epochs: how many of the lines come from a finished stage of another run. chosen: of each stage by its name,
    the epoch (from 0) whose network stands for it, where that is chosen on validation images.
    """

    lines: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, dict[str, Any]] = field(default_factory=dict)
    reused_epochs: int = 0
    chosen: dict[str, int] = field(default_factory=dict)

    def note_best(self, scores: dict[str, Scores], epoch: int) -> None:
        for head, values in scores.items():
            if head not in self.best or values.all > self.best[head]["all"]:
                self.best[head] = {"epoch": epoch, **values.as_dict()}


@dataclass
class OpenEpoch:
    """Sums over the steps taken so far of the epoch in progress; on the device, but for the seconds.

    losses: [steps], zero where not yet taken.
    """

    losses: Tensor
    measures: dict[str, Tensor] = field(default_factory=dict)
    seconds: float = 0.0


class TrainState:
    """The method, and of the stage that it has entered the optimiser, the weights' average, the best network.

    average, best: None where the protocol wants none. launcher: how the stage's steps are launched. at, history,
    open: where training stands.
    """

    optimiser: torch.optim.Optimizer
    launcher: Launcher

    def __init__(self, method: Method, protocol: ProtocolConfig, machine: Machine) -> None:
        self.method, self.protocol, self.machine = method, protocol, machine
        self.average: WeightAverage | None = None
        self.best: BestNetwork | None = None
        self.at, self.history, self.open = Position(), History(), OpenEpoch(torch.zeros(0))

    @property
    def stage(self) -> Stage:
        return self.method.stages[self.at.stage]

    def enter(self, index: int, data: Loader, shared: SharedStages) -> bool:
        """Begin a stage, or take another run's finished one where there is one: whether there was."""
        self.method.enter_stage(index)
        self.at = Position(index)
        self.history.best = {}
        finished = shared.load(index, self.method)
        if finished is not None:
            self.history = History(**finished)
            self.history.reused_epochs = len(self.history.lines)
            self.at = Position(index, self.stage.epochs)
        self._to_device()
        if self.at.epoch == 0:
            self.method.eval()
            with torch.no_grad(), self.machine.autocast():
                self.method.prepare(index, data)
        self.begin_updates(index)
        return finished is not None

    def begin_updates(self, index: int, saved: dict[str, Any] | None = None) -> None:
        """With a fresh optimiser of the stage, or that of a checkpoint; the method is on its device."""
        self.optimiser = make_optimiser(self.method, index, self.protocol)
        self.average = None if self.protocol.ema is None else WeightAverage(self.method, self.protocol.ema)
        self.best = None if self.protocol.choose == "last" else BestNetwork(self.method)
        if saved is not None:
            rank = self.machine.group.rank
            self.optimiser.load_state_dict(saved["optimiser"])
            if self.average is not None:
                self.average.load_state_dict(saved["average"][rank])
            if self.best is not None:
                self.best.load_state_dict(saved["best_network"][rank])
        if self.machine.device.type == "cuda":
            # A graph reads the rate of its step from the device; eager steps there round it as a graph does.
            for group in self.optimiser.param_groups:
                group["lr"] = torch.tensor(float(group["lr"]), device=self.machine.device)
        self.launcher = Launcher(self)

    def set_rate(self, rate: float) -> None:
        for group in self.optimiser.param_groups:
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(rate * group["lr_factor"])
            else:
                group["lr"] = rate * group["lr_factor"]

    def tensors(self) -> list[Tensor]:
        """All that a step changes."""
        momentum = (value for state in self.optimiser.state.values() for value in state.values())
        average = () if self.average is None else (self.average.count, *self.average.values)
        tensors = chain(self.method.parameters(), self.method.buffers(), momentum, average)
        return [tensor.detach() for tensor in tensors if isinstance(tensor, torch.Tensor)]

    def as_kept(self) -> AbstractContextManager[None]:
        """Inside, the method computes with the weights that would be kept if training ended now."""
        return nullcontext() if self.average is None else self.average.in_place()

    def offer(self, best: BestNetwork, epoch: int, accuracy: float) -> None:
        """The network that would be kept now may become the stage's best."""
        with self.as_kept():
            best.offer(epoch, accuracy)
        assert best.epoch is not None
        self.history.chosen[self.stage.name] = best.epoch

    def keep(self) -> None:
        """At a stage's end: let the method go on with the weights that are kept."""
        for kept in (self.average, self.best):
            if kept is not None:
                kept.adopt()

    # --- checkpoints ----------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Of all processes of a run, which take part in it; for the first one's checkpoint, empty for the others."""
        group = self.machine.group
        own = group.own_state(self.method)
        measures = {name: value.cpu() for name, value in self.open.measures.items()}
        opened = group.everyones({"losses": self.open.losses.cpu(), "measures": measures})
        kept = {
            **({} if self.average is None else {"average": group.everyones(self.average.state_dict())}),
            **({} if self.best is None else {"best_network": group.everyones(self.best.state_dict())}),
        }
        if not group.first:
            return {}
        return {
            "at": asdict(self.at),
            "method": self.method.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "history": asdict(self.history),
            "open": {**opened[0], "seconds": self.open.seconds},
            **({} if group.alone else {"processes_state": own, "opened": opened}),
            **kept,
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Stand where the checkpoint does, with this process's part of it, in its stage."""
        group, device = self.machine.group, self.machine.device
        self.at, self.history = Position(**saved["at"]), History(**saved["history"])
        opened = saved["open"] | (saved["opened"][group.rank] if "opened" in saved else {})
        measures = {name: value.to(device) for name, value in opened["measures"].items()}
        self.open = OpenEpoch(opened["losses"].to(device), measures, opened["seconds"])
        for index in range(self.at.stage + 1):
            self.method.enter_stage(index)
        self.method.load_state_dict(saved["method"])
        group.load_own_state(self.method, saved.get("processes_state", []))
        self._to_device()
        self.begin_updates(self.at.stage, saved)

    def _to_device(self) -> None:
        self.method.to(device=self.machine.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    # --- numbers that are none ------------------------------------------------------------

    def check(self) -> None:
        """A checkpoint must not keep a network that is no longer finite; a step's loss does not tell of its update."""
        self.check_losses(self.machine.group.summed(self.open.losses).cpu())
        if not bool(torch.stack([weights.isfinite().all() for weights in self.method.parameters()]).all()):
            raise self.not_finite("a weight is not finite", step=self.at.step)

    def check_losses(self, losses: Tensor) -> None:
        """Of an epoch's steps, [steps], on the host. Raises NotFiniteError."""
        bad = (~losses.isfinite()).nonzero()
        if len(bad):
            raise self.not_finite(f"the loss is {float(losses[bad[0, 0]])}", step=int(bad[0, 0]))

    def check_means(self, line: dict[str, Any]) -> None:
        """Of an epoch, whose losses were finite. Raises NotFiniteError."""
        for name, value in line.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise self.not_finite(f"{name} is {value} in the epoch's mean")

    def not_finite(self, what: str, *, step: int | None = None) -> NotFiniteError:
        epoch = min(self.at.epoch, max(self.stage.epochs - 1, 0))
        where = f"stage {self.stage.name!r}, epoch {epoch}" + ("" if step is None else f", step {step}")
        return NotFiniteError(f"{what} at {where}, learning rate {self.stage.lr(epoch):g}")
