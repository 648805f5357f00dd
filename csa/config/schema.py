"""The typed configuration: every key, its type and its range. Values and defaults live in ``conf/``.

Nothing here imports torch: validation must answer within a second. A field's metadata holds its range, what
a null stands for (``when_null``), what the identity of a run leaves out (``neutral``,
``used_when``) or counts another way (``counted_as``), and what older records lack (``neutral``, ``later``).
A method, sampler or data set
from another package names its own schema in its YAML (``schema: my_package.settings.MyMethod``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Literal, Self

from csa.config.locations import content_of, weights_file


def number(
    *, at_least: float | None = None, above: float | None = None, at_most: float | None = None, **more: Any
) -> Any:
    """A numeric field with its range, kept in the field's metadata for the validator."""
    return field(metadata={"at_least": at_least, "above": above, "at_most": at_most, **more})


def neutral(value: Any, **range_: Any) -> Any:
    """A field added after records exist: left out of the identity while it has this value."""
    return field(metadata={"neutral": value, **range_})


def later(**range_: Any) -> Any:
    """A field added after records exist, which the identity never has: they may lack it."""
    return field(metadata={"later": True, **range_})


def used_when(key: str, test: Callable[[Any], bool], **range_: Any) -> Any:
    """A field that is ignored, and left out of the identity, unless its neighbour ``key`` passes ``test``.

    otherwise: a value. The field is used in any case, but left out where the test fails and it has this value.
    """
    return field(metadata={"used_when": (key, test), **range_})


def shown_only() -> Any:
    """A field that chooses what is shown of a run and changes nothing in it: never in the identity."""
    return field(metadata={"shown_only": True})


EPOCHS, IMAGES, SIDE, PROCESSES, FACTOR = 10**6, 10**6, 10**4, 1024, 1000
"""Most epochs, images of a step or kept beside it, pixels of an image's side, processes or threads, and the largest
strength or exponent: far beyond use, and within what can be computed. Every number is within ``blocks.BOUNDS``."""


# --- dataset --------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class DatasetConfig:
    """What every data set has. ``source`` is the dotted path of the class that reads the images."""

    name: str
    schema: str
    source: str
    profile: Literal["exp", "step", "balanced", "natural"]
    imbalance_ratio: float = number(at_least=1)
    max_per_class: int | None = number(at_least=1)
    cap: bool
    split_seed: int = number(at_least=0)
    holdout: int = number(at_least=0)
    holdout_share: float = neutral(0.0, at_least=0, at_most=0.9)
    groups: list[int] | None
    mean: list[float] | None
    std: list[float] | None


# --- sampler, backbone ----------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """One index stream: the rule by which a step's images are drawn.

    rule  shuffle      every image once an epoch, in random order
          power        class k with probability n_k^q / sum_j n_j^q, then an image of it uniformly
          class_aware  a shuffled cycle of classes, ``images_per_visit`` images of each
          reversed     class k with probability (1/n_k) / sum_j (1/n_j) (BBN)
          none         the method brings its own streams
    draws images: N draws an epoch; cycle: K * max_k n_k draws an epoch
    """

    name: str
    rule: Literal["shuffle", "power", "class_aware", "reversed", "none"]
    q: float | None = used_when("rule", "power".__eq__, at_least=-FACTOR, at_most=FACTOR)
    images_per_visit: int | None = used_when("rule", "class_aware".__eq__, at_least=1, at_most=IMAGES)
    draws: Literal["images", "cycle"] = used_when("rule", "shuffle".__ne__, otherwise="images")


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """Settings that a schema of another package adds are given to the class by name, and count in the identity.

    pixel_bytes: what a step keeps in memory for each pixel of its images, in fp32 and at least; None: nobody knows.
    """

    name: str
    target: str
    stem: Literal["auto", "small", "large"] | None
    min_size: int = number(at_least=1)
    pixel_bytes: int | None = field(default=None, metadata={"at_least": 0})
    schema: str = "csa.config.schema.BackboneConfig"

    def without_weights(self) -> BackboneConfig:
        """The same for a network whose weights come from a checkpoint: it asks for no other file."""
        return self


@dataclass(frozen=True, kw_only=True)
class LibraryBackbone(BackboneConfig):
    """A network of torchvision or timm. A file of ``weights`` counts by its content, wherever it lies."""

    model: str
    weights: str | None = field(metadata={"counted_as": lambda weights: content_of(weights_file(weights)) or weights})
    frozen: Literal["nothing", "trunk", "all"]
    new_last_block: bool
    drop_path: float | None = number(at_least=0, at_most=0.99)

    def without_weights(self) -> LibraryBackbone:
        return replace(self, weights=None)


# --- method ---------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class MethodConfig:
    """``streams`` says whether the sampler group feeds the method or the method brings its own.

    starts_from: the method whose finished training is stage one of this method, taken where it is there;
    start_settings: which settings of this method are that method's.
    smooths: whether its losses are cross-entropies that know ``protocol.label_smoothing``.
    published: protocols of the method's paper, or of whoever ran its published row, by which
    ``protocol=published`` chooses: the one whose name is, or begins with, that of the data set's own protocol.
    """

    starts_from: ClassVar[str | None] = None
    start_settings: ClassVar[tuple[str, ...]] = ()
    smooths: ClassVar[bool] = False
    name: str
    schema: str
    target: str
    streams: Literal["sampler", "own"]
    published: list[str] = later()  # noqa: RUF009 (no default, metadata)

    def stage_epochs(self, protocol: ProtocolConfig) -> tuple[int, ...]:
        """Lengths of the method's stages, by which the time of a run is estimated."""
        return (protocol.epochs,)

    def passes(self) -> int:
        """Batches that a step takes through the network before it goes back: other images, or further views of them."""
        return 1

    def kept_images(self, protocol: ProtocolConfig) -> dict[str, int]:
        """Images that it keeps beside those of a step, as floats and with a mask, by the key that says how many."""
        return {}

    def resolved(self, protocol: ProtocolConfig) -> Self:
        """With every null that stands for a number of the protocol filled in (``when_null``, a function of it)."""
        filled = {
            field.name: field.metadata["when_null"](protocol)
            for field in fields(self)
            if "when_null" in field.metadata and getattr(self, field.name) is None
        }
        return replace(self, **filled)


# --- protocol -------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class StageTwoConfig:
    """How a classifier is re-trained on a frozen representation (cRT and its kind)."""

    epochs: int = number(at_least=1, at_most=EPOCHS)
    scales_epochs: int | None = later(at_least=1, at_most=EPOCHS)
    lr: float = number(above=0)
    cosine_share: float = later(above=0, at_most=1)
    head: Literal["copy", "new"]
    bn_mode: Literal["train", "eval"]


@dataclass(frozen=True, kw_only=True)
class ProtocolConfig:
    """The recipe around a method. Switch points are given at ``reference_epochs`` and scale with the length of
    training: a start in epoch 10 of 200 is one in epoch 0 of 10.
    """

    name: str
    epochs: int = number(at_least=1, at_most=EPOCHS)
    reference_epochs: int = number(at_least=1, at_most=EPOCHS)
    batch_size: int = number(at_least=2, at_most=IMAGES)
    lr: float = number(above=0)
    momentum: float = number(at_least=0, at_most=1)
    weight_decay: float = number(at_least=0)
    nesterov: bool
    optimizer: Literal["sgd", "adamw"] = neutral("sgd")
    layer_decay: float = neutral(1.0, above=0, at_most=1)
    clip_norm: float | None = neutral(None, above=0)
    ema: float | None = neutral(None, above=0, at_most=0.99999)
    label_smoothing: float = neutral(0.0, at_least=0, at_most=0.99)
    choose: Literal["last", "best_on_validation"] = neutral("last")
    schedule: Literal["constant", "cosine", "multistep"]
    warmup_epochs: int = number(at_least=0)
    warmup_from: float | None = neutral(None, at_least=0, at_most=1)
    warmup_each_step: bool = neutral(False)
    milestones: list[int] = used_when("schedule", "multistep".__eq__)  # noqa: RUF009 (no default, metadata)
    factors: list[float] = used_when("schedule", "multistep".__eq__)  # noqa: RUF009
    drop_last: bool = neutral(False)
    deferral_epoch: int = later(at_least=0)
    crop_padding: int = number(at_least=0, at_most=SIDE)
    flip: bool
    resized_crop: list[float] | None = neutral(None, above=0, at_most=1)  # noqa: RUF009
    colour_jitter: float = neutral(0.0, at_least=0, at_most=1)
    augment: Literal["standard", "auto", "rand", "sim"] = neutral("standard")
    rand_operations: int = used_when("augment", "rand".__eq__, at_least=1, at_most=14, neutral=2)
    rand_strength: int = used_when("augment", "rand".__eq__, at_least=0, at_most=30, neutral=9)
    cutout: int = neutral(0, at_least=0, at_most=SIDE)
    precision: Literal["auto", "fp32", "bf16"]
    balanced_epoch: Literal["images", "cycle"]
    mixup_alpha: float = number(above=0, at_most=FACTOR)
    mixup_off_epochs: int = number(at_least=0)
    stage_two: StageTwoConfig

    def scaled(self, reference_value: int) -> int:
        """An epoch (or number of epochs) given at the reference length, at this length, rounded down."""
        return reference_value * self.epochs // self.reference_epochs

    def window(self, reference_value: int) -> int:
        """Length of a window at the start or the end of training: scaled, at least one epoch; 0 stays 0 (no window)."""
        return max(1, self.scaled(reference_value)) if reference_value else 0


# --- the run --------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class RuntimeConfig:
    device: Literal["auto", "cpu", "cuda", "mps"]
    threads: int | None = number(at_least=1, at_most=PROCESSES)
    workers: int | None = number(at_least=0, at_most=PROCESSES)
    sync_batch_norm: bool = neutral(False)
    checkpoint_seconds: float = number(at_least=0)
    progress: bool | None
    jobs_per_gpu: int = number(at_least=1, at_most=PROCESSES)
    step_mode: Literal["auto", "eager", "compiled", "graph"]
    profile: bool


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """target: dotted path of the ``csa.tracking.tracker.Tracker`` that writes runs elsewhere; None: the record only."""

    name: str
    target: str | None = later()
    schema: str = "csa.config.schema.TrackingConfig"

    def of_a_sweep(self) -> list[str]:
        """Words for a run of a sweep, whose own process has all its runs tracked."""
        return ["tracking.target=null"]


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """How the cells of a sweep are run; no part of a run."""

    name: str | None
    slots: int | None = number(at_least=1, at_most=PROCESSES)
    on_error: Literal["continue", "stop"]
    retry_failed: bool
    calibrate: bool


@dataclass(frozen=True, kw_only=True)
class Config:
    """One run. ``delta`` and ``seed`` stand at the top because people sweep them."""

    dataset: DatasetConfig
    sampler: SamplerConfig
    method: MethodConfig
    backbone: BackboneConfig
    protocol: ProtocolConfig
    runtime: RuntimeConfig
    tracking: TrackingConfig
    sweep: SweepConfig
    delta: float = number(at_least=0, at_most=1)
    seed: int = number(at_least=0)
    variant: str
    data_dir: str
    download: bool
    output_root: str
    rerun: bool
    plan: bool
    smoke: bool
