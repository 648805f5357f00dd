"""The configuration tree itself: every sensible combination composes, is sound, and is explained."""

from __future__ import annotations

import re

import pytest
from composed import LIES_AT, config_of, of_every_option, options

from csa.config.composer import build, resolve_and_check
from csa.config.composition import Tree
from csa.config.dataset_schema import TorchvisionDataset
from csa.config.locations import conf_dir, sweeps_dir
from csa.config.method_schema import ContextShiftConfig
from csa.config.schema import Config

FILES = sorted(conf_dir().glob("*/*.yaml"))
GROUPS = ("dataset", "method", "backbone", "protocol", "sampler", "tracking")


@pytest.fixture(scope="module")
def conf():
    return Tree("config")


def composed(conf, *words):
    return conf.compose([conf.parse(word) for word in words]).config


@pytest.fixture(scope="module")
def every_option(conf):
    return [(words, composed(conf, *words)) for words in of_every_option()]


def test_every_option(every_option):
    seen = set()
    for words, config in every_option:
        assert resolve_and_check(config)[1] == [], words
        chosen = {(group, config[group].name) for group in GROUPS}
        assert {tuple(word.split("=")) for word in words if "." not in word} <= chosen
        seen |= chosen
    assert seen == {(group, option) for group in GROUPS for option in options(group)}


def test_every_method_on_every_data_set(conf, every_option):
    """What the one chooses and what the other does stand side by side."""
    blocks = {config.method.name: (config.method, config.sampler) for _, config in every_option}
    for dataset, own in zip(options("dataset"), reversed(blocks), strict=False):
        config = composed(conf, f"dataset={dataset}", f"method={own}", *LIES_AT.get(dataset, []))
        whole, _ = resolve_and_check(config)
        for method, block in blocks.items():
            config.method, config.sampler = block
            values, faults = resolve_and_check(config)
            assert faults == [], (dataset, method)
            if method == own:  # but for the sampler, which had its turn there
                assert {**values, "sampler": None} == {**whole, "sampler": None}


def test_build_gives_frozen_dataclasses_of_the_named_schema(conf):
    config = build(composed(conf, "dataset=cifar100_lt", "variant=7"))
    assert isinstance(config, Config)
    assert isinstance(config.dataset, TorchvisionDataset)
    assert isinstance(config.method, ContextShiftConfig)
    assert (config.dataset.imbalance_ratio, type(config.dataset.imbalance_ratio)) == (100.0, float)
    assert (config.method.delta, config.method.start_epoch, config.variant) == (0.8, None, "7")
    assert config.protocol.stage_two.epochs == 10
    with pytest.raises(AttributeError):
        config.seed = 1  # type: ignore[misc]


def test_a_data_set_brings_its_protocol_and_backbone_and_the_command_line_wins(conf):
    assert composed(conf, "dataset=mnist_lt").protocol.name == "mnist"
    assert composed(conf, "dataset=mnist_lt").backbone.name == "lenet"
    assert composed(conf, "dataset=mnist_lt", "backbone=resnet32").backbone.name == "resnet32"


OWN = {"image_folder": "path", "npz": "path", "list_files": "root"}


@pytest.mark.parametrize(("dataset", "key"), OWN.items())
def test_own_images_are_fine_tuned_where_the_backbone_has_weights(conf, dataset, key):
    words = (f"dataset={dataset}", f"dataset.{key}=x", "method=ce")
    pretrained = (*words, "backbone=torchvision", "backbone.weights=IMAGENET1K_V1")
    finetune = config_of("protocol=finetune").protocol
    others = config_of("protocol=imagenet" if dataset == "list_files" else "protocol=small").protocol
    assert config_of(*words).protocol == others
    assert config_of(*words, "backbone=torchvision").protocol == others
    assert config_of(*pretrained).protocol == finetune
    assert build(composed(conf, *pretrained)).protocol == finetune
    assert config_of(*pretrained, "protocol.lr=0.3").protocol.lr == 0.3
    assert composed(conf, *pretrained, "protocol=cifar").protocol.name == "cifar"


def test_a_schema_from_another_package(conf, tmp_path, monkeypatch):
    (tmp_path / "their_settings.py").write_text(
        "from dataclasses import dataclass\n"
        "from csa.config.schema import MethodConfig\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class Theirs(MethodConfig):\n    strength: int\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = composed(conf, "method=ce", "method.schema=their_settings.Theirs", "+method.strength=3")
    assert resolve_and_check(config)[1] == []
    assert build(config).method.strength == 3  # type: ignore[attr-defined]


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_file_says_what_it_is_and_what_its_values_do(path):
    """Numbers and switches without a word beside them are the ones that people get wrong."""
    lines = path.read_text().splitlines()
    assert any(line.startswith("# ") and not line.startswith("# @") for line in lines[:2])
    unexplained = [line for line in lines if re.match(r" *[a-z_]+: [^#]*$", line) and not SELF_EXPLAINED.match(line)]
    assert unexplained == []


SELF_EXPLAINED = re.compile(
    r" *(defaults|method|dataset|name|schema|source|target|streams|rule|std|weight_decay|nesterov"
    r"|milestones|factors|stem: null|lambda_max|uri|experiment|model: false"
    r"|q: null|images_per_visit: null|q: -?\d|q: 0.5|images_per_visit: 4|draws: images"
    r"|mixup_alpha: \$|[a-z_]+: \$\{recipe:)"
)


def test_where_the_trees_lie():
    assert (conf_dir() / "config.yaml").is_file()
    assert sweeps_dir().name == "sweeps"
    assert sweeps_dir().parent == conf_dir().parent
