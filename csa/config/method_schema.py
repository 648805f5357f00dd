"""The typed settings of the methods; what the values do stands in ``conf/method/``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from csa.config.schema import EPOCHS, FACTOR, IMAGES, MethodConfig, neutral, number, shown_only, used_when

if TYPE_CHECKING:
    from csa.config.schema import ProtocolConfig

BETA_MOST = 1 - 1e-9
"""The effective number has no value at 1."""


def _deferral(protocol: ProtocolConfig) -> int:
    return protocol.scaled(protocol.deferral_epoch)


def _mixup_off(protocol: ProtocolConfig) -> int:
    return protocol.window(protocol.mixup_off_epochs)


def _reweights(loss: str) -> bool:
    """Whether a base loss of CMO has class weights."""
    return loss in ("ce_drw", "ldam_drw")


@dataclass(frozen=True, kw_only=True)
class CrossEntropyConfig(MethodConfig):
    smooths: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True)
class ClassifierRetrainingConfig(MethodConfig):
    starts_from: ClassVar[str | None] = "ce"
    smooths: ClassVar[bool] = True
    epochs: int | None = number(at_least=1, at_most=EPOCHS, when_null=lambda protocol: protocol.stage_two.epochs)
    lr: float = number(above=0)
    cosine_share: float = neutral(1.0, above=0, at_most=1)
    trains: Literal["classifier", "scales"] = neutral("classifier")
    head: Literal["copy", "new"] = used_when("trains", "classifier".__eq__)
    bn_mode: Literal["train", "eval"]
    draws: Literal["images", "cycle"]
    images_per_visit: int = number(at_least=1, at_most=IMAGES)

    def stage_epochs(self, protocol: ProtocolConfig) -> tuple[int, ...]:
        return protocol.epochs, self.epochs or protocol.stage_two.epochs


@dataclass(frozen=True, kw_only=True)
class ContextShiftConfig(MethodConfig):
    smooths: ClassVar[bool] = True
    delta: float = used_when("bank", bool, at_least=0, at_most=1)
    start_epoch: int | None = number(at_least=0, when_null=lambda protocol: protocol.scaled(10))
    bank: bool
    bank_size: int | None = used_when(
        "bank", bool, at_least=1, at_most=IMAGES // 10, when_null=lambda protocol: protocol.batch_size
    )
    empty_bank: Literal["epoch", "never"] = used_when("bank", bool)
    lambda_min: float = used_when("bank", bool, at_least=0, at_most=1)
    lambda_max: float = used_when("bank", bool, at_least=0, at_most=1)
    mask_pass: Literal["eval", "train"] = used_when("bank", bool)
    balanced_sampler: Literal["class_aware", "class_balanced"]
    images_per_visit: int = used_when("balanced_sampler", "class_aware".__eq__, at_least=1, at_most=IMAGES)
    mixup_alpha: float = number(at_least=0, at_most=FACTOR)
    mixup_off_epochs: int | None = used_when(
        "mixup_alpha", bool, at_least=0, when_null=lambda protocol: protocol.window(protocol.mixup_off_epochs)
    )
    primary_head: Literal["uniform", "balanced", "mean"] = shown_only()
    loss: Literal["ce", "logit_adjusted", "bcl"] = neutral("ce")
    contrast_temperature: float = used_when("loss", "bcl".__eq__, above=0, at_most=FACTOR, neutral=0.1)

    def passes(self) -> int:
        return 4 if self.loss == "bcl" else 2

    def kept_images(self, protocol: ProtocolConfig) -> dict[str, int]:
        if not self.bank:
            return {}
        return {"method.bank_size": self.bank_size} if self.bank_size else {"protocol.batch_size": protocol.batch_size}


@dataclass(frozen=True, kw_only=True)
class FocalConfig(MethodConfig):
    form: Literal["sigmoid", "softmax"]
    gamma: float = number(at_least=0, at_most=FACTOR)
    prior_bias: bool = used_when("form", "sigmoid".__eq__)
    beta: float = number(at_least=0, at_most=BETA_MOST)
    weights: Literal["outside", "inside"] = used_when("form", "softmax".__eq__)


@dataclass(frozen=True, kw_only=True)
class DeferredConfig(MethodConfig):
    start_epoch: int | None = number(at_least=0, when_null=_deferral)


@dataclass(frozen=True, kw_only=True)
class ReweightedConfig(DeferredConfig):
    class_weights: Literal["effective_number", "inverse_frequency"]
    beta: float = used_when("class_weights", "effective_number".__eq__, at_least=0, at_most=BETA_MOST)
    reduction: Literal["weighted_mean", "mean"]


@dataclass(frozen=True, kw_only=True)
class LdamConfig(ReweightedConfig):
    max_margin: float = number(at_least=0)
    scale: float = number(above=0)


@dataclass(frozen=True, kw_only=True)
class LogitAdjustmentConfig(MethodConfig):
    smooths: ClassVar[bool] = True
    tau: float = number(at_least=-FACTOR, at_most=FACTOR)


@dataclass(frozen=True, kw_only=True)
class MixupConfig(MethodConfig):
    smooths: ClassVar[bool] = True
    mixup_alpha: float = number(above=0, at_most=FACTOR)
    mixup_off_epochs: int | None = number(at_least=0, when_null=_mixup_off)


@dataclass(frozen=True, kw_only=True)
class RemixConfig(MixupConfig):
    kappa: float = number(at_least=1)
    tau: float = number(at_least=0, at_most=1)


@dataclass(frozen=True, kw_only=True)
class CmoConfig(LdamConfig):
    """Re-weighting and margins are those of ``loss``, and count where it has them."""

    loss: Literal["ce", "ce_drw", "ldam_drw", "balanced_softmax"]
    probability: float = number(at_least=0, at_most=1)
    foreground_power: float = number(at_least=-FACTOR, at_most=FACTOR)
    first_epoch: int | None = number(at_least=0, when_null=lambda protocol: protocol.scaled(4))
    off_epochs: int | None = number(at_least=0, when_null=lambda protocol: protocol.window(3))
    start_epoch: int | None = used_when("loss", _reweights, at_least=0, when_null=_deferral)
    class_weights: Literal["effective_number", "inverse_frequency"] = used_when("loss", _reweights)
    beta: float = used_when("loss", _reweights, at_least=0, at_most=BETA_MOST)
    reduction: Literal["weighted_mean", "mean"] = used_when("loss", _reweights)
    max_margin: float = used_when("loss", "ldam_drw".__eq__, at_least=0)
    scale: float = used_when("loss", "ldam_drw".__eq__, above=0)


@dataclass(frozen=True, kw_only=True)
class MixupRetrainingConfig(ClassifierRetrainingConfig):
    starts_from: ClassVar[str | None] = "mixup"
    start_settings: ClassVar[tuple[str, ...]] = ("mixup_alpha", "mixup_off_epochs")
    mixup_alpha: float = number(above=0, at_most=FACTOR)
    mixup_off_epochs: int | None = number(at_least=0, when_null=_mixup_off)


@dataclass(frozen=True, kw_only=True)
class PostHocConfig(MethodConfig):
    """tau: null is tuned on the validation images."""

    starts_from: ClassVar[str | None] = "ce"
    smooths: ClassVar[bool] = True
    correction: Literal["tau_norm", "logit_adjustment"]
    tau: float | None = number(at_least=-FACTOR, at_most=FACTOR)

    def stage_epochs(self, protocol: ProtocolConfig) -> tuple[int, ...]:
        return protocol.epochs, 0


@dataclass(frozen=True, kw_only=True)
class BilateralConfig(MethodConfig):
    branch_factor: float = number(above=0)

    def passes(self) -> int:
        return 2


@dataclass(frozen=True, kw_only=True)
class TranslationConfig(DeferredConfig):
    """M2m; its helper network is a finished ce."""

    starts_from: ClassVar[str | None] = "ce"
    seed_weight: float = number(at_least=0)
    gamma: float = number(at_least=0, at_most=1)
    beta: float = number(at_least=0, at_most=BETA_MOST)
    step_size: float = number(above=0)
    iterations: int = number(at_least=1, at_most=EPOCHS)
    noise: Literal["channel", "image"]

    def stage_epochs(self, protocol: ProtocolConfig) -> tuple[int, ...]:
        return protocol.epochs, protocol.epochs


@dataclass(frozen=True, kw_only=True)
class ForegroundTransferConfig(DeferredConfig):
    """CAM-BS."""

    limit: int | None = number(at_least=1)
    threshold: float = number(at_least=0)
    max_angle: float = number(at_least=0, at_most=180)
    min_scale: float = number(above=0, at_most=FACTOR)
    max_scale: float = number(above=0, at_most=FACTOR)

    def stage_epochs(self, protocol: ProtocolConfig) -> tuple[int, ...]:
        start = _deferral(protocol) if self.start_epoch is None else self.start_epoch
        return start, protocol.epochs - start


@dataclass(frozen=True, kw_only=True)
class OltrConfig(MethodConfig):
    first_epochs: int | None = number(at_least=0, when_null=lambda protocol: protocol.epochs // 3)
    lr: float = number(above=0)
    slow: float = number(above=0)
    centroid_weight: float = number(at_least=0)
    images_per_visit: int = number(at_least=1, at_most=IMAGES)

    def stage_epochs(self, protocol: ProtocolConfig) -> tuple[int, ...]:
        first = protocol.epochs // 3 if self.first_epochs is None else self.first_epochs
        return first, protocol.epochs - first


@dataclass(frozen=True, kw_only=True)
class TunedConfig(MethodConfig):
    """A finished ce, tuned for some epochs more."""

    starts_from: ClassVar[str | None] = "ce"
    epochs: int = number(at_least=1, at_most=EPOCHS)
    lr: float = number(above=0)

    def stage_epochs(self, protocol: ProtocolConfig) -> tuple[int, ...]:
        return protocol.epochs, self.epochs


@dataclass(frozen=True, kw_only=True)
class FsaConfig(TunedConfig):
    """The lower case Greek letters of the paper are named by what they choose."""

    head_share: float = number(above=0, at_most=1)
    confusing: int = number(at_least=1)
    specific: float = number(at_least=0, at_most=1)
    generic: float = number(at_least=0, at_most=1)


@dataclass(frozen=True, kw_only=True)
class WeightBalancingConfig(TunedConfig):
    weight_decay: float = number(at_least=0)
    max_norm: float = number(at_least=0, at_most=FACTOR)
    beta: float = number(at_least=0, at_most=BETA_MOST)


@dataclass(frozen=True, kw_only=True)
class ExpertsConfig(MethodConfig):
    """scale: of the cosines of a normalised classifier."""

    experts: int
    own_stages: int = number(at_least=1, at_most=2)
    scale: float = number(above=0)


@dataclass(frozen=True, kw_only=True)
class RideConfig(ExpertsConfig, LdamConfig):
    """RIDE without its router."""

    experts: int = number(at_least=2, at_most=16)
    scale: float = number(above=0)
    diversity: float = number(at_least=0, at_most=FACTOR)
    diversity_tilt: float = number(at_least=0, at_most=0.99)


@dataclass(frozen=True, kw_only=True)
class SadeConfig(ExpertsConfig):
    experts: int = number(at_least=3, at_most=3)
    tau: float = number(at_least=0, at_most=FACTOR)
    aggregation: Literal["mean", "test_time"]
    aggregation_epochs: int = used_when("aggregation", "test_time".__eq__, at_least=1, at_most=EPOCHS, neutral=5)
    aggregation_batch: int = used_when("aggregation", "test_time".__eq__, at_least=1, at_most=IMAGES, neutral=128)
    aggregation_lr: float = used_when("aggregation", "test_time".__eq__, above=0, at_most=FACTOR, neutral=0.1)
    aggregation_momentum: float = used_when("aggregation", "test_time".__eq__, above=0, at_most=1, neutral=0.9)
    aggregation_weight_decay: float = used_when(
        "aggregation", "test_time".__eq__, at_least=0, at_most=FACTOR, neutral=5e-4
    )
    least_share: float = used_when("aggregation", "test_time".__eq__, at_least=0, at_most=1, neutral=0.05)
    view_area: float = used_when("aggregation", "test_time".__eq__, above=0, at_most=1, neutral=0.5)
    view_jitter: float = used_when("aggregation", "test_time".__eq__, at_least=0, at_most=1, neutral=0.4)

    def stage_epochs(self, protocol: ProtocolConfig) -> tuple[int, ...]:
        return (protocol.epochs, 0) if self.aggregation == "test_time" else (protocol.epochs,)


@dataclass(frozen=True, kw_only=True)
class GlobalLocalMixtureConfig(MethodConfig):
    """GLMC."""

    mixup_alpha: float = number(above=0, at_most=FACTOR)
    sampling_power: float = number(at_least=-FACTOR, at_most=FACTOR)
    label_power: float = number(at_least=0, at_most=FACTOR)
    consistency: float = number(at_least=0, at_most=FACTOR)

    def passes(self) -> int:
        return 2


@dataclass(frozen=True, kw_only=True)
class BalancedContrastiveConfig(MethodConfig):
    """BCL."""

    smooths: ClassVar[bool] = True
    temperature: float = number(above=0, at_most=FACTOR)
    classifier_weight: float = number(at_least=0, at_most=FACTOR)
    contrast_weight: float = number(at_least=0, at_most=FACTOR)

    def passes(self) -> int:
        return 3


@dataclass(frozen=True, kw_only=True)
class ParametricContrastiveConfig(MethodConfig):
    """GPaCo. image_weight: alpha of the paper."""

    queue: int = number(at_least=1, at_most=IMAGES)
    projected: int = number(at_least=1, at_most=10**5)
    temperature: float = number(above=0, at_most=FACTOR)
    image_weight: float = number(at_least=0, at_most=FACTOR)

    def passes(self) -> int:
        return 2
