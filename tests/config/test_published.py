"""``protocol=published``: the recipe of the method's own paper, or of whoever ran its published row."""

from __future__ import annotations

import subprocess
import sys

import pytest
from composed import composer, config_of
from omegaconf import OmegaConf
from test_request import faults_of

from csa.config.composer import build
from csa.config.composition import Tree, spelt_out
from csa.config.faults import UserError
from csa.config.locations import conf_dir
from csa.request import preflight

PUBLISHED = {
    "ce": "cifar_ldam",
    "ce_drs": "cifar_ldam",
    "ce_drw": "cifar_ldam",
    "ldam_drw": "cifar_ldam",
    "m2m": "cifar_ldam",
    "cmo": "cifar_ldam",
    "bbn": "cifar_bbn",
    "focal": "cifar_cb",
    "cb_focal": "cifar_cb",
    "mixup": "cifar_bbn",
    "remix": "cifar_remix",
    "cam_bs": "cifar_bot",
    "crt": "cifar_mislas",
    "lws": "cifar_mislas",
    "crt_mixup": "cifar_mislas",
    "lws_mixup": "cifar_mislas",
    "csa": "cifar",
    "csa_mixup": "cifar",
    "weight_balancing": "cifar_wb",
    "ride": "cifar_ride",
    "sade": "cifar_sade",
    "glmc": "cifar_glmc",
    "bcl": "cifar_bcl",
    "gpaco": "cifar_strong",
}


@pytest.mark.parametrize(("method", "name"), PUBLISHED.items())
def test_every_method_has_its_recipe(method, name):
    dataset = ("cifar10_lt", "cifar100_lt")[list(PUBLISHED).index(method) % 2]
    words = ["protocol=published", f"method={method}", f"dataset={dataset}", "protocol.batch_size=64"]
    config = config_of(*words)
    assert (config.protocol.name, config.protocol.batch_size) == (name, 64)
    assert spelt_out(words, config)[0] == f"protocol={name}"


@pytest.mark.parametrize("dataset", ["cifar10_lt", "cifar100_lt"])
def test_it_is_the_recipe_by_its_name(dataset):
    conf = Tree("config")
    words = ["protocol=published", "method=ldam_drw", f"dataset={dataset}", "protocol.batch_size=64"]
    config = conf.compose([conf.parse(word) for word in words]).config
    explicit = conf.compose([conf.parse(word) for word in ("protocol=cifar_ldam", *words[1:])]).config
    assert OmegaConf.to_container(config, resolve=True) == OmegaConf.to_container(explicit, resolve=True)
    assert build(config) == config_of(*words)


def test_every_recipe_that_a_method_names_is_there():
    there = {path.stem for path in (conf_dir() / "protocol").glob("*.yaml")}
    for path in (conf_dir() / "method").glob("*.yaml"):
        file = OmegaConf.load(path)
        named = OmegaConf.select(file, "method.published") or OmegaConf.select(file, "published") or []
        assert set(named) <= there, path


@pytest.mark.parametrize(
    ("dataset", "ratio", "words", "pair"),
    [
        ("cifar10_lt", "100", (), (0.9999, 1.0)),
        ("cifar10_lt", "50", (), (0.9999, 2.0)),
        ("cifar10_lt", "10", (), (0.9999, 2.0)),
        ("cifar100_lt", "100", (), (0.9, 1.0)),
        ("cifar100_lt", "100.0", ("protocol=published",), (0.9, 1.0)),
        ("cifar100_lt", "50", ("protocol=published",), (0.99, 1.0)),
        ("cifar100_lt", "10", ("protocol=published",), (0.99, 1.0)),
        ("cifar100_lt", "20", (), (0.9999, 1.0)),
        ("cifar100_lt", "100", ("dataset.profile=step",), (0.9999, 1.0)),
        ("cifar100_lt", "100", ("method.beta=0.999", "method.gamma=0.5"), (0.999, 0.5)),
        ("mnist_lt", "100", (), (0.9999, 1.0)),
    ],
)
def test_cb_focal_has_what_was_tuned_for_the_data_unless_the_user_says_otherwise(dataset, ratio, words, pair):
    words = (f"dataset={dataset}", "method=cb_focal", *words, f"dataset.imbalance_ratio={ratio}")
    method = config_of(*words).method
    assert (method.beta, method.gamma) == pair
    if ratio == "50":
        whole = composer().tree.compose([composer().tree.parse(word) for word in words])
        assert build(whole.config).method == method


@pytest.mark.parametrize("order", [1, -1])
def test_a_method_without_a_recipe_for_the_data_is_a_fault_whatever_comes_first(order):
    words = ["dataset=mnist_lt", "method=ldam_drw", "protocol=published", "download=true"]
    (fault,) = [fault for fault in faults_of(*words[::order]) if "protocol" in fault]
    assert fault.startswith("protocol=published: method=ldam_drw names no published recipe for dataset=mnist_lt")
    assert "(only cifar_ldam); allowed: the data set's own protocol " in fault
    assert "or one by its name: cifar, cifar_bbn, " in fault


def test_other_faults_are_told_beside_it():
    faults = faults_of("protocol=published", "method=cas", "delta=3", "protocol.epochs=0")
    assert {fault.split(":")[0] for fault in faults} == {
        "method=cas",
        "protocol=published",
        "delta=3",
        "protocol.epochs=0",
    }


def test_it_is_an_option_like_the_others():
    (fault,) = faults_of("protocol=publishd", "dataset=mnist_lt", "method=tau_norm")
    assert "did you mean 'published'?" in fault
    assert faults_of("protocol=cifar,published", "dataset=mnist_lt", "method=csa", multirun=True) == []


def test_a_sweep_takes_the_word_too(tmp_path):
    """Alone, where Hydra would look for an option of that name; each cell has its method's own recipe."""
    words = ("smoke=true", "plan=true", "sweep.calibrate=false", "tracking=none", "dataset=cifar10_lt", "seed=0")
    words += ("method=ldam_drw,bbn", "protocol=published")
    done = subprocess.run(
        [sys.executable, "-m", "csa.run", "-m", *words], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 cells, 2 runs: 0 done" in done.stdout


def test_a_sweep_file_s_words_are_judged_on_its_own_data():
    """The default data set has no published recipe."""
    assert preflight(["protocol=published", "method=ldam_drw", "seed=0"], "table2", to_run=False).sweeps
    with pytest.raises(UserError, match="method=ldam_drw names no published recipe for dataset=digits_lt"):
        preflight(["protocol=published", "method=ldam_drw"], to_run=False)
    with pytest.raises(UserError, match="did you mean 'csa'"):
        preflight(["protocol=published", "method=cas"], "table2", to_run=False)
