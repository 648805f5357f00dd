"""What makes two configurations one run, and what makes them two."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Literal, get_args, get_origin, get_type_hints

import pytest
from composed import config_of, of_every_option
from hypothesis import given
from hypothesis import strategies as st

from csa.config import identity as identities
from csa.config.identity import canonical, fingerprint, identity, run_folder, slug
from csa.config.locations import shipped

SPLIT = "0123456789abcdef" * 4


CSA = config_of("dataset=cifar100_lt")
MIXUP = config_of("dataset=cifar100_lt", "method=csa_mixup")
CE = config_of("dataset=cifar100_lt", "method=ce")


def fingerprint_of(config, split_hash=SPLIT):
    return fingerprint(identity(config, split_hash))


def changed(config, key, value):
    block, _, name = key.rpartition(".")
    return replace(
        config,
        **{block: replace(getattr(config, block), **{name: value}) if block else value} if block else {name: value},
    )


def test_golden():
    """Raise RESULTS_VERSION on purpose, never by accident: committed records are found by these."""
    assert [fingerprint_of(config) for config in (CSA, MIXUP, CE)] == GOLDEN


GOLDEN = ["22acca341567", "7b3784f87948", "f403f63ae455"]


@pytest.mark.parametrize(("precision", "version"), [("fp32", 1), ("bf16", 2), ("auto", 2)])
def test_results_changed_where_bf16_may_be_in_use(precision, version):
    assert identity(changed(CE, "protocol.precision", precision), "ab")["results_version"] == version


def test_a_correction_renames_the_runs_that_it_concerns(monkeypatch):
    monkeypatch.setattr(identities, "CORRECTIONS", {"b": lambda _: True, "a": lambda run: run.method.name == "ce"})
    assert identity(CE, "ab")["corrections"] == ["a", "b"]
    assert identity(CSA, "ab")["corrections"] == ["b"]
    monkeypatch.setattr(identities, "CORRECTIONS", {"a": lambda run: run.method.name == "ce"})
    assert "corrections" not in identity(CSA, "ab")


def test_which_runs_were_corrected():
    methods = [config_of(*words).method for words in of_every_option()]
    identities_of = {method.name: identity(replace(CE, method=method), "ab") for method in methods}
    corrected = {name: parts["corrections"] for name, parts in identities_of.items() if "corrections" in parts}
    projections = ["projections in float32"]
    calibration = "calibration of sigmoid losses is that of their own probabilities"
    assert corrected == {
        **dict.fromkeys(("bcl", "glmc", "gpaco"), projections),
        "cb_focal": [calibration],
        "csa": ["context shift as released"],
        "csa_mixup": ["context shift as released"],
        "focal": [calibration],
        "fsa": ["scores of confusing classes are summed in one order"],
        "oltr": ["centroids learn with the released gradient"],
        "tau_norm": ["tau-normalised logits in float32"],
    }
    for word in ("method.bank=false", "method.mask_pass=train"):
        assert "corrections" in identity(config_of("dataset=cifar100_lt", word), "ab")
    assert "corrections" not in identity(config_of("method=focal", "method.form=softmax"), "ab")
    in_fp32 = config_of("dataset=cifar100_lt", "method=tau_norm", "protocol.precision=fp32")
    assert "corrections" not in identity(in_fp32, "ab")


@pytest.mark.parametrize(
    ("protocol", "concerned", "others"),
    [("cifar", (2, 39, 79), (80, 200, 400)), ("cifar_bbn", (10, 39), (40, 200)), ("imagenet", (), (2, 90))],
)
def test_runs_that_had_no_warm_up_left_have_new_names(protocol, concerned, others):
    name = "shortened runs keep a warm-up"
    for epochs in (*concerned, *others):
        config = config_of("dataset=cifar10_lt", "method=ce", f"protocol={protocol}", f"protocol.epochs={epochs}")
        assert (name in identity(config, "ab").get("corrections", [])) == (epochs in concerned)


def test_the_identity_of_cross_entropy_in_full():
    assert identity(CE, "ab") == {
        "results_version": 2,
        "dataset": {
            "name": "cifar100_lt",
            "split": "ab",
            "mean": [0.4914, 0.4822, 0.4465],
            "std": [0.2023, 0.1994, 0.201],
        },
        "method": {"name": "ce"},
        "sampler": {"rule": "shuffle"},
        "backbone": {"name": "resnet32", "stem": None},
        "protocol": {
            "epochs": 200,
            "reference_epochs": 200,
            "batch_size": 128,
            "lr": 0.2,
            "momentum": 0.9,
            "weight_decay": 0.0002,
            "nesterov": False,
            "schedule": "multistep",
            "warmup_epochs": 5,
            "milestones": [160, 180],
            "factors": [0.1, 0.01],
            "crop_padding": 4,
            "flip": True,
            "precision": "auto",
        },
        "seed": 0,
        "variant": "",
    }


# --- every key of conf/ ---------------------------------------------------------------------

BY_CONTENT = "what it decides is in the hash of the data's content"
BY_METHOD = "methods that use it have a setting of their own, which counts"
WIRING = "says which class takes the settings, or what is offered"
MACHINE = "where and how it is computed is recorded, and no part of what"
NOT_COUNTED = {
    BY_CONTENT: {
        *("profile", "imbalance_ratio", "max_per_class", "cap", "split_seed", "holdout", "holdout_share"),
        *("test_per_class", "enlarge"),
        *("label_flip", "colour_seed", "archive", "npz_name", "path", "image_size", "root", "lists", "train_list"),
        *(
            "val_list",
            "test_list",
            "listed_images",
            "validation",
            "resize",
            "identified_by",
            "cache",
            "cache_dir",
            "source",
        ),
    },
    BY_METHOD: {
        *("delta", "protocol.deferral_epoch", "protocol.balanced_epoch", "protocol.mixup_alpha"),
        *("protocol.mixup_off_epochs", "protocol.cosine_share"),
    },
    WIRING: {"schema", "published", "min_size", "pixel_bytes", "sampler.name", "protocol.name"},
    MACHINE: {
        *("device", "threads", "workers", "checkpoint_seconds", "progress", "jobs_per_gpu", "step_mode", "profile"),
        *("data_dir", "download", "output_root", "rerun", "plan", "smoke"),
        *(
            "slots",
            "on_error",
            "retry_failed",
            "calibrate",
            "sweep.name",
        ),
    },
    "a finished run is scored anew": {"dataset.groups", "method.primary_head"},
}
REASONS = {key: reason for reason, keys in NOT_COUNTED.items() for key in keys}


def reason_of(key: str) -> str:
    """Why a key does not count: by its whole name, by that of its block, or by its own."""
    block, _, name = key.rpartition(".")
    of_the_block = {"protocol.stage_two": BY_METHOD, "tracking": MACHINE}
    return REASONS.get(key) or of_the_block.get(block) or REASONS.get(name, "")


def leaves(block, at=""):
    for field in fields(block):
        value, key = getattr(block, field.name), f"{at}.{field.name}".strip(".")
        if is_dataclass(value):
            yield from leaves(value, key)
        else:
            yield key, block, field, value


def others(block, field, value):
    """Values that the key may have as well."""
    hint = get_type_hints(type(block))[field.name]
    kinds = [kind for kind in get_args(hint) if kind is not type(None)] if type(None) in get_args(hint) else [hint]
    if get_origin(kinds[0]) is Literal:
        return [choice for choice in get_args(kinds[0]) if choice != value]
    if get_origin(kinds[0]) is list:
        return [[*(value or []), 1]]
    change = {bool: lambda: value is not True, int: lambda: (value or 76) + 1, float: lambda: (value or 0.25) * 2}
    return [change.get(kinds[0], lambda: f"{value}x")()]


def with_value(block, key, value):
    name, _, rest = key.partition(".")
    return replace(block, **{name: with_value(getattr(block, name), rest, value) if rest else value})


def is_ignored(block, field):
    neighbour, test = field.metadata.get("used_when", ("", None))
    return test is not None and "otherwise" not in field.metadata and not test(getattr(block, neighbour))


@pytest.mark.parametrize("words", list(of_every_option()), ids=" ".join)
def test_every_key_counts_or_is_known_not_to(words):
    """A key that is new is counted, or says above why not; a method's own settings always count."""
    config = config_of(*words)
    who = fingerprint_of(config)
    for key, block, field, value in leaves(config):
        if key.startswith("sampler.") and config.method.streams == "own":
            continue  # the method brings its own
        counts = any(fingerprint_of(with_value(config, key, other)) != who for other in others(block, field, value))
        if key == "method.streams" or (reason_of(key) == BY_METHOD and counts):
            continue  # says whether the sampler counts; by a null of the method that stands for it
        assert counts == (not reason_of(key) and not is_ignored(block, field)), key
        assert key.split(".")[0] != "method" or reason_of(key) in ("", WIRING, "a finished run is scored anew"), key


def test_code_that_is_not_ours_counts():
    """An own class, or an own file, under one of our names must not show what ours has computed."""
    for key, value in (("method.target", "mine.CrossEntropy"), ("backbone.target", "mine.ResNet32")):
        assert identity(changed(CE, key, value), "ab")[key.split(".")[0]]["target"] == value
        assert "target" not in identity(CE, "ab")[key.split(".")[0]]
    shown = {name: shipped("method", name)["target"] for name in ("crt", "lws", "csa", "csa_mixup")}
    assert shown["crt"] == shown["lws"]
    assert shown["csa"] == shown["csa_mixup"] == CSA.method.target
    assert shipped("method", "../config") is None


def test_settings_that_a_backbone_of_another_package_has_count(tmp_path, monkeypatch):
    (tmp_path / "their_backbone.py").write_text(
        "from dataclasses import dataclass\n"
        "from csa.config.schema import BackboneConfig\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class Theirs(BackboneConfig):\n    weights: str\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    words = ("backbone=resnet10", "+backbone.schema=their_backbone.Theirs")
    theirs = [config_of(*words, f"+backbone.weights={weights}") for weights in ("a.pt", "b.pt")]
    assert [identity(config, "ab")["backbone"]["weights"] for config in theirs] == ["a.pt", "b.pt"]


def test_a_file_of_weights_counts_by_its_content_wherever_it_lies(tmp_path):
    here, there = tmp_path / "a.pt", tmp_path / "moved/b.pt"
    there.parent.mkdir()
    here.write_bytes(b"first")
    there.write_bytes(b"first")
    words = ("backbone=torchvision", "method=ce")
    named = [config_of(*words, f"backbone.weights={file}") for file in (here, there)]
    first, same = map(fingerprint_of, named)
    assert first == same
    here.write_bytes(b"other")
    assert fingerprint_of(named[0]) != first
    assert identity(named[1], "ab")["backbone"]["weights"] == "sha256:a7937b64b8caa58f"
    published = config_of(*words, "backbone.weights=IMAGENET1K_V1")
    assert identity(published, "ab")["backbone"]["weights"] == "IMAGENET1K_V1"
    assert slug(published) == "ir100-resnet18-digits-uniform-s0"


DRS, LDAM, CMO = (config_of("dataset=cifar100_lt", f"method={name}") for name in ("ce_drs", "ldam_drw", "cmo"))


@pytest.mark.parametrize(
    ("config", "key", "value", "counts"),
    [
        (DRS, "protocol.deferral_epoch", 150, True),
        (DRS, "method.start_epoch", 160, False),
        (LDAM, "method.reduction", "mean", True),
        (changed(LDAM, "method.class_weights", "inverse_frequency"), "method.beta", 0.9, False),
        (CMO, "protocol.deferral_epoch", 150, False),
        (CMO, "method.beta", 0.9, False),
        (CMO, "method.first_epoch", 4, False),
        (changed(CMO, "method.loss", "ce_drw"), "method.beta", 0.9, True),
        (changed(CMO, "method.loss", "ce_drw"), "protocol.deferral_epoch", 150, True),
        (changed(CMO, "method.loss", "ce_drw"), "method.scale", 10.0, False),
        (config_of("method=lws"), "method.head", "copy", False),
        (config_of("method=crt"), "method.trains", "scales", True),
        (config_of("method=focal"), "method.weights", "inside", False),
        (config_of("method=focal", "method.form=softmax"), "method.prior_bias", False, False),
    ],
)
def test_what_counts_of_the_other_methods(config, key, value, counts):
    assert (fingerprint_of(changed(config, key, value)) != fingerprint_of(config)) == counts


def test_the_data_counts_by_its_content():
    assert fingerprint_of(CSA, "other") != fingerprint_of(CSA)


def test_the_sampler_counts_only_for_a_method_that_draws_from_it():
    assert fingerprint_of(changed(CE, "sampler.rule", "reversed")) != fingerprint_of(CE)
    assert fingerprint_of(changed(CSA, "sampler.rule", "reversed")) == fingerprint_of(CSA)
    balanced, power = (
        config_of("method=ce", *words) for words in (["sampler=class_balanced"], ["sampler=power", "sampler.q=0"])
    )
    assert fingerprint_of(balanced) == fingerprint_of(power)


@pytest.mark.parametrize(
    ("config", "key", "value"),
    [
        (CSA, "method.start_epoch", 10),
        (CSA, "method.bank_size", 128),
        (MIXUP, "method.mixup_off_epochs", 3),
        (CSA, "method.delta", 0.8000000000000001),
        (CSA, "method.lambda_max", 1),
        (CSA, "method.mixup_off_epochs", 9),  # no mixup
        (CE, "sampler.q", 0.3),  # of rule power alone
        (changed(CSA, "protocol.schedule", "cosine"), "protocol.milestones", [3]),
        (changed(CSA, "method.bank", False), "method.delta", 0.1),
        (changed(CSA, "method.bank", False), "method.lambda_min", 0.1),
        (changed(CSA, "method.balanced_sampler", "class_balanced"), "method.images_per_visit", 1),
    ],
)
def test_spellings_of_one_run(config, key, value):
    assert fingerprint_of(changed(config, key, value)) == fingerprint_of(config)


def test_a_swept_delta_counts_for_csa_alone():
    swept = [config_of(f"delta={delta}") for delta in (0.1, 0.2)]
    assert fingerprint_of(swept[0]) != fingerprint_of(swept[1])
    swept = [config_of(f"delta={delta}", "method=ce") for delta in (0.1, 0.2)]
    assert fingerprint_of(swept[0]) == fingerprint_of(swept[1])


@given(st.integers(-(10**6), 10**6), st.integers(1, 999))
def test_canonical_numbers(numerator, steps):
    assert canonical(float(numerator)) == numerator
    assert isinstance(canonical(float(numerator)), int)
    summed = sum([numerator / 1000] * steps)
    assert canonical([summed]) == [canonical(round(summed, 9))] or abs(summed) > 1e3


def test_canonical_keeps_kinds_apart():
    assert canonical(0.1 + 0.2) == 0.3
    assert repr(canonical(-0.0)) == "0"
    assert canonical(True) is True
    assert canonical("1.0") == "1.0"
    assert canonical(1e-9) == 1e-9
    assert canonical(2**60) == 2**60


# --- names ----------------------------------------------------------------------------------


def test_slugs():
    assert slug(CSA) == "ir100-resnet32-cifar-delta0.8-s0"
    assert slug(CE) == "ir100-resnet32-cifar-uniform-s0"
    natural = changed(changed(CE, "dataset.profile", "natural"), "variant", "a/b c")
    assert slug(natural) == "natural-resnet32-cifar-uniform-a_b_c-s0"
    assert slug(changed(CSA, "method.delta", 0.30000000000000004)).split("-")[3] == "delta0.3"


@given(st.text(max_size=60), st.text(max_size=60))
def test_folder_names_are_safe(variant, name):
    config = changed(changed(CSA, "variant", variant), "dataset.name", name)
    folder = run_folder(config, "abc")
    assert len(folder.parts) == 4
    assert ".." not in folder.parts
    assert all(part.isascii() and "\0" not in part and len(part) < 200 for part in folder.parts)


def test_run_folder(tmp_path):
    config = changed(CSA, "output_root", str(tmp_path))
    expected = tmp_path / "cifar100_lt" / "csa" / "ir100-resnet32-cifar-delta0.8-s0-abcdef"
    assert run_folder(config, "abcdef") == expected
    assert not any(tmp_path.iterdir())
    expected.mkdir(parents=True)
    other_spelling = changed(config, "protocol.name", "mine")
    assert run_folder(other_spelling, "abcdef") == expected
