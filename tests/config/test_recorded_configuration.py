"""Records outlive the version that wrote them."""

from __future__ import annotations

from dataclasses import replace
from pkgutil import resolve_name

import pytest
from composed import options
from omegaconf import OmegaConf

from csa.config.blocks import named_class
from csa.config.faults import UserError
from csa.config.identity import identity
from csa.config.locations import MOVED, shipped
from csa.config.recorded import read_recorded


def write(config, path, *without: str) -> None:
    values = OmegaConf.to_container(OmegaConf.structured(config))
    for key in without:
        block, _, name = key.rpartition(".")
        del (values[block] if block else values)[name]
    OmegaConf.save(OmegaConf.create(values), path)


def test_what_was_recorded_is_read_as_it_was(configuration, tmp_path):
    config = configuration("method=csa", "delta=0.3", "method.bank_size=7", "dataset.imbalance_ratio=3")
    write(config, tmp_path / "config.yaml")
    assert read_recorded(tmp_path / "config.yaml") == config


@pytest.mark.parametrize("module", ["schema", "backbone_schema", "of_a_version_to_come"])
def test_a_schema_of_ours_is_found_whichever_module_a_record_says(configuration, tmp_path, module):
    config = configuration("method=csa", "backbone=timm")
    old = replace(
        config,
        method=replace(config.method, schema=f"csa.config.{module}.ContextShiftConfig"),
        backbone=replace(config.backbone, schema=f"csa.config.{module}.LibraryBackbone"),
    )
    write(old, tmp_path / "config.yaml")
    assert read_recorded(tmp_path / "config.yaml") == old


def test_a_class_that_has_moved_is_found_by_its_first_path():
    for first, now in MOVED.items():
        assert named_class("", first, object) is resolve_name(now)


@pytest.mark.parametrize("first", [first for first in MOVED if first.startswith(("csa.methods.", "csa.models."))])
def test_and_keeps_its_identity(configuration, tmp_path, first):
    """In records, and in an option of another folder, whichever of the paths its file names."""
    group = "method" if ".methods." in first else "backbone"
    option = next(name for name in options(group) if shipped(group, name)["target"] == MOVED[first])
    config = configuration(f"{group}={option}")
    block = getattr(config, group)
    recorded = replace(config, **{group: replace(block, target=first)})
    assert identity(recorded, "ab") == identity(config, "ab")
    if option in ("crt", "resnet10"):  # one of each: reading takes a while
        write(recorded, tmp_path / "config.yaml")
        assert getattr(read_recorded(tmp_path / "config.yaml"), group).target == first
        assert identity(read_recorded(tmp_path / "config.yaml"), "ab") == identity(config, "ab")
    for path in (first, block.target):
        theirs = replace(config, **{group: replace(block, target=path, name="of_another_folder")})
        assert identity(theirs, "ab")[group]["target"] == first


def test_keys_added_later_have_the_value_that_the_tree_gives_them(configuration, tmp_path):
    config = configuration("method=crt", "seed=3")
    write(config, tmp_path / "config.yaml", "rerun", "runtime.checkpoint_seconds", "method.bn_mode", "variant")
    read = read_recorded(tmp_path / "config.yaml")
    assert read.seed == 3
    assert read == config


def test_or_their_neutral_value_where_they_have_one(configuration, tmp_path):
    config = configuration("dataset=list_files", "dataset.root=here", "protocol=imagenet", of_digits=False)
    write(config, tmp_path / "config.yaml", "dataset.identified_by")
    assert (config.dataset.identified_by, read_recorded(tmp_path / "config.yaml").dataset.identified_by) == (
        "content",
        "sizes",
    )


def test_a_method_of_another_package_keeps_its_own_keys(configuration, tmp_path):
    config = configuration("method=ce", "method.name=elsewhere")
    write(config, tmp_path / "config.yaml")
    assert read_recorded(tmp_path / "config.yaml").method.name == "elsewhere"


def test_what_refers_to_something_was_not_recorded_by_us(configuration, tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", "s3cret")
    write(configuration("method=ce", "variant=x"), tmp_path / "config.yaml")
    sound = (tmp_path / "config.yaml").read_text()
    for text, told in (
        (sound.replace("variant: x", "variant: ${oc.env:SECRET}"), "refers to something at variant"),
        (sound.replace("name: ce", "name: ['${']"), "refers to something at method.name"),
        ("a: [", "cannot be read (while parsing"),
        ("3", "is no configuration"),
        ("seed: 3", "lacks dataset.name"),
    ):
        (tmp_path / "config.yaml").write_text(text)
        with pytest.raises(UserError) as caught:
            read_recorded(tmp_path / "config.yaml")
        assert f"config.yaml: {told}" in str(caught.value)
        assert "s3cret" not in str(caught.value)
