"""What the loop and a method say to each other.

A method owns its networks and answers: which stages it trains, which index streams a step draws,
the loss of one step, and the logits of each head. The loop knows no method by name.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor, nn
from torch.nn import functional

from csa.config.blocks import named_class
from csa.config.faults import Fault, UserError
from csa.models.backbone import build_backbone

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch

    from csa.config.schema import Config, MethodConfig, ProtocolConfig, SamplerConfig
    from csa.data.batch import Batch
    from csa.data.loader import Loader
    from csa.models.backbone import Backbone


@dataclass(frozen=True)
class Context:
    """What a method is built from.

    counts: training images of each class, [K]. image_shape: channels, height, width of a training
    image. build_backbone: a new backbone for this data set's images, normalisation included; the
    caller chooses the random address of its weights.
    """

    config: MethodConfig
    sampler: SamplerConfig
    protocol: ProtocolConfig
    counts: Sequence[int]
    image_shape: tuple[int, int, int]
    build_backbone: Callable[[], Backbone]
    seed: int

    @property
    def num_classes(self) -> int:
        return len(self.counts)


@dataclass(frozen=True)
class Clock:
    """Where training is: stage (index), epoch within the stage, and the stage's length; all from 0.

    decision: how the step at hand goes on, see ``Method.foreseen``; None where nobody has said.
    """

    stage: int
    epoch: int
    epochs: int
    decision: str | None = None


@dataclass(frozen=True)
class Stage:
    """One uninterrupted training: its length and its learning rate as a pure function of the epoch.

    A length of 0 epochs leaves all the work to ``Method.prepare``. shared: what this stage trains, as plain
    values, when another method may start from its result (crt starts from a finished ce); None when nobody
    may. lr_each_step: the rate is set at every step, of which the epoch is then a fraction.
    """

    name: str
    epochs: int
    lr: Callable[[float], float]
    shared: Mapping[str, Any] | None = None
    lr_each_step: bool = False


class Step(NamedTuple):
    """Loss of one step (scalar, fp32) and detached scalar tensors worth a line in the metrics file."""

    loss: Tensor
    measures: dict[str, Tensor]


WITHIN = "within"
"""The decision about a step that reads the device in its middle: it is launched kernel by kernel."""


class Method(nn.Module):
    """A trainable method. ``heads`` names its classifiers; ``primary_head`` stands for the run."""

    heads: tuple[str, ...]
    primary_head: str
    stages: tuple[Stage, ...]

    def enter_stage(self, stage: int) -> None:
        """Freeze, thaw and re-initialise for ``stage``; where there is one stage, everything trains.

        Called when the stage begins, after the stages before it; on resuming it is called for every
        stage up to the current one, and the checkpoint's state is loaded afterwards.
        """

    def prepare(self, stage: int, loader: Loader) -> None:
        """Work on the training or validation images before the first step of ``stage``.

        Each process of a run asks the loader for all of them (``whole``), so that all come to the same.

        Called after ``enter_stage``, on the device, in evaluation mode and without gradients; not on
        resuming, so that what it leaves belongs into the state.
        """

    def added_images(self, stage: int, loader: Loader) -> tuple[Tensor, Tensor] | None:
        """Images that ``stage`` trains on beside the training set: uint8 [M, H, W, C] and labels [M].

        Called after ``prepare`` and on resuming: a pure function of the method's state and the training set.
        """
        return None

    def train_stage(self, stage: int) -> None:
        """Put the networks into training mode; methods with frozen batch-norm override it."""
        self.train()

    def parameter_groups(self, stage: int) -> list[dict[str, Any]]:
        """Optimiser groups: ``params`` and, optionally, ``lr_factor`` and ``weight_decay``."""
        return [{"params": [p for p in self.parameters() if p.requires_grad]}]

    @abstractmethod
    def streams(self, clock: Clock) -> dict[str, SamplerConfig]:
        """Index streams of this epoch; the first decides the number of steps and their sizes."""

    def draws(self, clock: Clock, sizes: Sequence[int], generator: torch.Generator) -> dict[str, Tensor]:
        """Random numbers of a whole epoch, each [steps, ...]; a step receives its row.

        sizes: images of each step. Drawn on the CPU at the epoch's address, then moved to the device,
        so that no step draws, synchronises, or depends on an earlier one.
        """
        return {}

    def begin_epoch(self, clock: Clock) -> None:
        """Once before the first step of an epoch (not on resuming in its middle)."""

    def phase(self, clock: Clock) -> str:
        """Name of the variant of the step in force, by the clock: of the key under which a graph may be captured."""
        return "train"

    def before_forward(self, batches: dict[str, Batch], clock: Clock) -> dict[str, Tensor]:
        """The first part of a step, before anything that has gradients (CSA's mask pass); returns measures.

        The state that it leaves on the device may decide how the step goes on.
        """
        return {}

    def foreseen(self, clock: Clock, images: int) -> str | None:
        """How a step of so many images goes on after ``before_forward``, as far as the host knows until then.

        Like ``phase`` it names a variant of the step. None: ``before_forward`` decides, see ``decision``; so long the
        host waits. ``WITHIN``: ``forward`` itself does.
        """
        return ""

    def decision(self, clock: Clock, images: int) -> str:
        """The same after a ``before_forward`` that was to decide; reads the device."""
        raise NotImplementedError

    @abstractmethod
    def forward(self, batches: dict[str, Batch], draws: dict[str, Tensor], clock: Clock) -> Step:
        """All of a step that follows ``before_forward``, in one call."""

    @abstractmethod
    def logits(self, images: Tensor) -> dict[str, Tensor]:
        """Logits of each head, [B, K], for images [B, C, H, W] in [0, 1]; evaluation mode."""

    def probabilities(self, logits: Tensor) -> Tensor:
        """Of each class, [B, K], from the logits of a head: softmax, unless the loss takes them for something else."""
        return logits.softmax(1)

    def log_likelihood(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Of each image's label under these probabilities, [B]."""
        return -functional.cross_entropy(logits, labels, reduction="none")


@contextmanager
def evaluating(*networks: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, each part's own mode again outside."""
    modes = [(module, module.training) for network in networks for module in network.modules()]
    for network in networks:
        network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def build_method(
    config: Config,
    image_shape: tuple[int, int, int],
    mean: Sequence[float],
    std: Sequence[float],
    counts: Sequence[int],
) -> Method:
    """The method for a data set: images [channels, height, width], ``counts`` training images of each class.

    Raises:
        UserError: the class of the method or backbone cannot be imported, the images are too small for it, or the
            protocol smooths labels of a loss that knows nothing of it.
    """
    if config.protocol.label_smoothing and not config.method.smooths:
        problem = f"method={config.method.name} has a loss that it is not defined for"
        raise UserError(Fault("protocol.label_smoothing", config.protocol.label_smoothing, problem, "0"))
    context = Context(
        config=config.method,
        sampler=config.sampler,
        protocol=config.protocol,
        counts=counts,
        image_shape=image_shape,
        build_backbone=partial(build_backbone, config.backbone, image_shape, mean, std),
        seed=config.seed,
    )
    return named_class("method.target", config.method.target, Method)(context)
