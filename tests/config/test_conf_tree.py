"""The configuration tree itself: every sensible combination composes, is sound, and is explained."""

from __future__ import annotations

import re

import pytest

from csa.config.composer import Composer, build, resolve_and_check
from csa.config.composition import Tree
from csa.config.dataset_schema import TorchvisionDataset
from csa.config.locations import conf_dir, sweeps_dir
from csa.config.method_schema import ContextShiftConfig
from csa.config.schema import Config

FILES = sorted(conf_dir().glob("*/*.yaml"))


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (conf_dir() / group).glob("[!_]*.yaml"))


@pytest.fixture(scope="module")
def conf():
    return Tree("config")


def composed(conf, *words):
    return conf.compose([conf.parse(word) for word in words]).config


@pytest.mark.parametrize("dataset", options("dataset"))
def test_every_method_on_every_data_set(conf, dataset):
    path = {"npz": ["dataset.path=x"], "image_folder": ["dataset.path=x"], "list_files": ["dataset.root=x"]}.get(
        dataset, []
    )
    for method in options("method"):
        config = composed(conf, f"dataset={dataset}", f"method={method}", *path)
        assert resolve_and_check(config)[1] == []
        assert (config.dataset.name, config.method.name) == (dataset, method)


@pytest.mark.parametrize("group", ["sampler", "backbone", "protocol", "tracking", "runtime"])
def test_every_other_option(conf, group):
    for option in options(group):
        method = "csa" if option == "none" else "ce"
        config = composed(conf, f"{group}={option}", f"method={method}")
        assert resolve_and_check(config)[1] == []
        assert group == "runtime" or config[group].name == option


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
    finetune, others = (build(composed(conf, f"protocol={name}")).protocol for name in ("finetune", "small"))
    if dataset == "list_files":
        others = build(composed(conf, "protocol=imagenet")).protocol
    assert build(composed(conf, *words)).protocol == others
    assert build(composed(conf, *words, "backbone=torchvision")).protocol == others
    assert build(composed(conf, *pretrained)).protocol == finetune
    assert build(composed(conf, *pretrained, "protocol.lr=0.3")).protocol.lr == 0.3
    assert composed(conf, *pretrained, "protocol=cifar").protocol.name == "cifar"
    assert Composer(conf).checked([conf.parse(word) for word in pretrained]).config.protocol == finetune


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
