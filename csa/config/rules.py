"""Rules between keys. A rule names the keys it reads and is asked only when all of them are there and sound."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from csa.config.faults import Fault
from csa.config.locations import conf_dir, shipped
from csa.config.method_schema import PostHocConfig

if TYPE_CHECKING:
    from csa.config.schema import Config

Rule = Callable[..., Fault | None]
RULES: list[tuple[tuple[str, ...], Rule]] = []


def rule(*keys: str) -> Callable[[Rule], Rule]:
    """Register a function of these keys' values that returns a fault or None."""

    def register(function: Rule) -> Rule:
        RULES.append((keys, function))
        return function

    return register


def broken_rules(values: Mapping[str, Any], unsound: Collection[str]) -> list[Fault]:
    """Faults between keys. values: by dotted key; unsound: keys that have a fault of their own."""
    answers = (
        function(*(values[key] for key in keys))
        for keys, function in RULES
        if all(key in values and key not in unsound for key in keys)
    )
    return [fault for fault in answers if fault]


# --- method and sampler ---------------------------------------------------------------------


@rule("method.lambda_min", "method.lambda_max")
def lambda_is_an_interval(low: float, high: float) -> Fault | None:
    if low <= high:
        return None
    return Fault("method.lambda_min", low, "is above method.lambda_max", f"at most {high}")


@rule("method.mask_pass", "method.mixup_alpha")
def a_clean_pass_for_the_mask(mode: str, mixup_alpha: float) -> Fault | None:
    """METHOD, CSA 10: with mixup on the uniform branch no training pass sees clean images."""
    if mode == "eval" or mixup_alpha == 0:
        return None
    problem = f"with mixup (method.mixup_alpha={mixup_alpha}) no training pass sees unmixed images"
    return Fault("method.mask_pass", mode, problem, "eval, or method.mixup_alpha=0")


@rule("method.loss", "method.mixup_alpha", "method.mask_pass")
def a_contrast_of_clean_images(loss: str, mixup_alpha: float, mask_pass: str) -> Fault | None:
    """As released, CSA's contrast comes in place of mixup, and its masks have a pass of their own."""
    if loss != "bcl" or (mixup_alpha == 0 and mask_pass == "eval"):  # noqa: S105 (no password)
        return None
    problem = f"does not go with method.mixup_alpha={mixup_alpha} method.mask_pass={mask_pass}"
    return Fault("method.loss", loss, problem, "ce, logit_adjusted, or method.mixup_alpha=0 method.mask_pass=eval")


@rule("method.limit", "method.start_epoch", "protocol.epochs")
def fine_tuning_has_an_epoch(_: int | None, start: int | None, epochs: int) -> Fault | None:
    """CAM-BS's first stage ends where its second begins."""
    if start is None or start < epochs:
        return None
    return Fault("method.start_epoch", start, f"leaves none of the {epochs} epochs to stage two", f"below {epochs}")


@rule("method.first_epochs", "protocol.epochs")
def stage_one_is_within_the_epochs(first: int | None, epochs: int) -> Fault | None:
    """OLTR's second stage has the rest of them."""
    if first is None or first <= epochs:
        return None
    return Fault("method.first_epochs", first, f"is more than the {epochs} epochs of both stages", f"at most {epochs}")


@rule("method.min_scale", "method.max_scale")
def scale_is_an_interval(low: float, high: float) -> Fault | None:
    if low <= high:
        return None
    return Fault("method.min_scale", low, "is above method.max_scale", f"at most {high}")


@rule("sampler.name", "sampler.rule", "method.name", "method.streams")
def sampler_suits_method(sampler: str, rule_: str, method: str, streams: str) -> Fault | None:
    if streams == "own" and rule_ != "none":
        return Fault("sampler", sampler, f"is not used: method={method} brings its own streams", "none")
    if streams == "sampler" and rule_ == "none":
        problem = f"method={method} draws its batches from the sampler and brings no streams of its own"
        return Fault("sampler", sampler, problem, ", ".join(_samplers()))
    return None


@rule("sampler.rule", "sampler.q")
def power_has_its_exponent(rule_: str, q: float | None) -> Fault | None:
    missing = rule_ == "power" and q is None
    return Fault("sampler.q", "null", "is needed by sampler.rule=power", "a number") if missing else None


@rule("sampler.rule", "sampler.images_per_visit")
def cycle_has_its_visits(rule_: str, images: int | None) -> Fault | None:
    if rule_ != "class_aware" or images is not None:
        return None
    return Fault("sampler.images_per_visit", "null", "is needed by sampler.rule=class_aware", "an integer, at least 1")


# --- protocol and backbone ------------------------------------------------------------------


@rule("protocol.milestones")
def milestones_increase(milestones: list[int]) -> Fault | None:
    if all(earlier < later for earlier, later in pairwise([-1, *milestones])):
        return None
    return Fault("protocol.milestones", milestones, "do not increase", "epochs in increasing order")


@rule("protocol.milestones", "protocol.factors")
def a_factor_for_each_milestone(milestones: list[int], factors: list[float]) -> Fault | None:
    if len(milestones) == len(factors):
        return None
    problem = f"has {len(factors)} for {len(milestones)} milestones"
    return Fault("protocol.factors", factors, problem, f"{len(milestones)} numbers, one a milestone")


@rule("protocol.nesterov", "protocol.momentum")
def nesterov_has_momentum(nesterov: bool, momentum: float) -> Fault | None:
    if not nesterov or momentum > 0:
        return None
    return Fault("protocol.nesterov", "true", "needs momentum", "false, or protocol.momentum above 0")


@rule("protocol.nesterov", "protocol.optimizer")
def nesterov_is_of_sgd(nesterov: bool, optimizer: str) -> Fault | None:
    if not nesterov or optimizer == "sgd":
        return None
    return Fault("protocol.nesterov", "true", f"is not of {optimizer}", "false, or protocol.optimizer=sgd")


@rule("protocol.resized_crop", "protocol.crop_padding")
def one_kind_of_crop(shares: list[float] | None, padding: int) -> Fault | None:
    if shares is None:
        return None
    if len(shares) != 2 or shares[0] > shares[1]:
        return Fault("protocol.resized_crop", shares, "is no interval", "[least share, greatest share], or null")
    if padding:
        return Fault("protocol.crop_padding", padding, "does not go with protocol.resized_crop", "0")
    return None


@rule("protocol.resized_crop", "protocol.colour_jitter")
def jitter_with_resized_crop(shares: list[float] | None, jitter: float) -> Fault | None:
    if shares is not None or jitter == 0:
        return None
    return Fault(
        "protocol.colour_jitter", jitter, "needs protocol.resized_crop", "0, or protocol.resized_crop=[0.08,1]"
    )


@rule("protocol.augment", "protocol.resized_crop")
def sim_augment_has_a_resized_crop(augment: str, shares: list[float] | None) -> Fault | None:
    if augment != "sim" or shares is not None:
        return None
    allowed = "another, or protocol.resized_crop=[0.2,1] protocol.crop_padding=0"
    return Fault("protocol.augment", "sim", "is made of resized crops (protocol.resized_crop)", allowed)


@rule("dataset.unreadable", "dataset.name", "protocol.resized_crop", "protocol.name")
def files_of_all_sizes_need_a_resized_crop(
    _: str, dataset: str, shares: list[float] | None, protocol: str
) -> Fault | None:
    if shares is not None:
        return None
    problem = f"dataset={dataset} has images of all sizes, which protocol={protocol} does not crop to one"
    return Fault("protocol.resized_crop", "null", problem, "[0.08,1], or protocol=imagenet")


@rule("backbone.name", "backbone.stem")
def backbone_has_a_stem(backbone: str, stem: str | None) -> Fault | None:
    """A backbone of ours whose own file says ``stem: null`` has but one stem."""
    ours = shipped("backbone", backbone)
    if ours is None or (stem is None) == (ours["stem"] is None):
        return None
    if stem is None:
        return Fault("backbone.stem", "null", f"backbone={backbone} needs a stem", "auto, small, large")
    return Fault("backbone.stem", stem, f"backbone={backbone} has no choice of stem", "null")


# --- dataset --------------------------------------------------------------------------------

HOW_TO_VALIDATE = "validation images: dataset.holdout_share=0.1, dataset.holdout=20, or those of the data set's own"


def validation_faults(config: Config) -> list[Fault]:
    """What of a sound configuration needs validation images; of one that has none.

    No rule of keys, since data may bring some of its own.
    """
    faults = []
    if isinstance(config.method, PostHocConfig) and config.method.tau is None:
        problem = "is tuned on validation images, and there are none"
        faults.append(Fault("method.tau", "null", problem, f"a number, or {HOW_TO_VALIDATE}"))
    if config.protocol.choose != "last":
        problem = "needs validation images, and there are none"
        faults.append(Fault("protocol.choose", config.protocol.choose, problem, f"last, or {HOW_TO_VALIDATE}"))
    return faults


@rule("dataset.holdout", "dataset.holdout_share")
def one_kind_of_holdout(images: int, share: float) -> Fault | None:
    if images == 0 or share == 0:
        return None
    return Fault("dataset.holdout_share", share, f"does not go with dataset.holdout={images}", "one of the two")


@rule("dataset.groups")
def three_groups(groups: list[int] | None) -> Fault | None:
    if groups is None or (len(groups) == 3 and min(groups) >= 0):
        return None
    return Fault("dataset.groups", groups, "is not many, medium and few", "three numbers of classes, or null")


@rule("dataset.mean", "dataset.std")
def a_deviation_for_each_mean(mean: list[float] | None, std: list[float] | None) -> Fault | None:
    if (mean is None) == (std is None) and len(mean or ()) == len(std or ()):
        return None
    shown = "null" if std is None else std
    return Fault("dataset.std", shown, f"does not go with dataset.mean={mean}", "as many numbers, or null with null")


@rule("dataset.std")
def deviations_are_positive(std: list[float] | None) -> Fault | None:
    if all(deviation > 0 for deviation in std or ()):
        return None
    return Fault("dataset.std", std, "has a number that is not above 0", "numbers above 0, or null")


@cache
def _samplers() -> list[str]:
    return sorted(path.stem for path in (conf_dir() / "sampler").glob("*.yaml") if path.stem != "none")
