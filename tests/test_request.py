"""Every mistake on the command line, by the words of its message; nothing is ever written."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from csa import evaluate, records, report, request
from csa.config.composer import Composer
from csa.config.composition import Tree
from csa.config.faults import UserError
from csa.config.locations import conf_dir
from csa.data import __main__ as data
from csa.request import KEYS, configure, preflight
from csa.tracking.mlflow.store import DEFAULT_URI, how_to_browse


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CSA_DATA", raising=False)
    yield
    assert not (tmp_path / "outputs").exists()


def faults_of(*words: str, **how) -> list[str]:
    try:
        preflight(words, **how)
    except UserError as error:
        return [str(fault) for fault in error.faults]
    return []


@pytest.mark.parametrize(
    "words",
    [
        "",
        "dataset=cifar100_lt",
        "dataset=mnist_lt method=crt seed=1",
        "method=ce sampler=power sampler.q=0.25",
        "dataset.imbalance_ratio=5 method.mask_pass=train method.start_epoch=0 method.empty_bank=never",
        "delta=0 protocol.epochs=3 variant=7 runtime.threads=1",
        "dataset.groups.0=3",
    ],
)
def test_sound_commands(words):
    assert faults_of(*words.split()) == []


METHODS = ", ".join(sorted(path.stem for path in (conf_dir() / "method").glob("*.yaml")))
SAMPLERS = "class_aware, class_balanced, power, reversed, square_root, uniform"


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("delta=1.3", "delta=1.3: is out of range; allowed: a number from 0 to 1"),
        ("delta=abc", "delta=abc: is not a number; allowed: a number from 0 to 1"),
        ("delta=true", "delta=true: is not a number; allowed: a number from 0 to 1"),
        ("delta=nan", "delta=nan: is not a finite number; allowed: a number from 0 to 1"),
        ("delta=null", "delta=null: must not be null; allowed: a number from 0 to 1"),
        ("delta=[0.1]", "delta=[0.1]: is not a number; allowed: a number from 0 to 1"),
        ("method=cas", f"method=cas: there is no such method; did you mean 'csa'? Allowed: {METHODS}."),
        ("method=c*", f"method=c*: there is no such method; did you mean 'glob(c*)'? Allowed: {METHODS}."),
        ("method=null", f"method=null: there is no such method; allowed: {METHODS}"),
        ("seed=1.5", "seed=1.5: is not an integer; allowed: an integer, at least 0"),
        ("seed=9223372036854775808", "seed=9223372036854775808: is beyond 9.223e+18; allowed: an integer, at least 0"),
        ("protocol.lr=1e39", "protocol.lr=1e+39: is beyond 1e+38; allowed: a number above 0"),
        (
            "dataset.groups=[1,1,9223372036854775808]",
            (
                "dataset.groups=[1, 1, 9223372036854775808]: 9223372036854775808 is beyond 9.223e+18; "
                "allowed: a list of integers, or null"
            ),
        ),
        (
            "runtime.threads=100000",
            "runtime.threads=100000: is out of range; allowed: an integer from 1 to 1024, or null",
        ),
        ("seed=-1", "seed=-1: is out of range; allowed: an integer, at least 0"),
        ("download=1", "download=1: is not true or false; allowed: true or false"),
        ("variant=1.5", "variant=1.5: is not text; allowed: text"),
        ("dataset.imbalance_ratio=0.5", "dataset.imbalance_ratio=0.5: is out of range; allowed: a number, at least 1"),
        ("dataset.groups=3", "dataset.groups=3: is not a list; allowed: a list of integers, or null"),
        (
            "dataset.groups=[3,a,3]",
            "dataset.groups=[3, 'a', 3]: a is not an integer; allowed: a list of integers, or null",
        ),
        ("protocol.lr=0", "protocol.lr=0: is out of range; allowed: a number above 0"),
        ("protocol.stage_two=3", "protocol.stage_two=3: is not a group of keys"),
        (
            "protocol.stage_two.epochs=0",
            "protocol.stage_two.epochs=0: is out of range; allowed: an integer from 1 to 1000000",
        ),
        (
            "method.mask_pass=evall",
            "method.mask_pass=evall: is not one of the choices; did you mean 'eval'? Allowed: eval, train.",
        ),
        ("method.bank_size=0", "method.bank_size=0: is out of range; allowed: an integer from 1 to 100000, or null"),
        ("dataset=npz", "dataset.path=???: must be given; allowed: text"),
        ("~delta", "delta: is missing; allowed: a number from 0 to 1"),
        ("delta=${nothing}", "delta=${nothing}: Interpolation key 'nothing' not found"),
        ("protocol", "protocol: is not a key=value word; allowed: key=value, or ~key"),
        ("data_dir=~/x", "data_dir=~/x: cannot be read; allowed: quote special characters: \"data_dir='...'\""),
        ("delta=0,1", "delta=0,1: has several values; allowed: one value; -m runs them all; a list is written [a,b]"),
        ("hydra.foo=1", "hydra.foo=1: unknown key"),
        ("hydra.mode=${nope}", "hydra.mode=${nope}: Interpolation key 'nope' not found"),
        (
            "cells=3",
            (
                "cells=3: is no word of a command; allowed: cells: in a file, as in those of sweeps/; "
                "-m key=a,b varies a key"
            ),
        ),
    ],
)
def test_one_mistake(word, message):
    assert faults_of(word) == [message]


@pytest.mark.parametrize(
    ("word", "problem"),
    [
        ("method.schema=os.path", "is no such class"),
        ("method.schema=csa.config.schema.DatasetConfig", "is no such class"),
        ("method.schema=nowhere.Schema", "cannot be imported (No module named 'nowhere')"),
        ("dataset.source=../..", "cannot be imported (ValueError: invalid format: '../..')"),
        ("dataset.source=builtins.exit", "is no such class"),
        ("dataset.source=csa.data.sources.Source", "is a base class, without inspect, load"),
    ],
)
def test_code_that_cannot_be_used_is_not_called(word, problem):
    base = "MethodConfig" if "schema" in word else "Source"
    assert faults_of(word) == [f"{word}: {problem}; allowed: package.module.Class, derived from {base}"]


@pytest.mark.parametrize(
    ("word", "key", "meant"),
    [
        ("delat=0.3", "delat", "delta"),
        ("metod=csa", "metod", "method"),
        ("method.delat=0.3", "method.delat", "method.delta"),
        ("bank=false", "bank", "method.bank"),
        ("imbalance_ratio=50", "imbalance_ratio", "dataset.imbalance_ratio"),
        ("metod.delta=0.1", "metod.delta", "method.delta"),
        ("protocol.stage_two.epoch=1", "protocol.stage_two.epoch", "protocol.stage_two.epochs"),
        ("+sead=3", "sead", "seed"),
    ],
)
def test_an_unknown_key_and_the_nearest_name(word, key, meant):
    (fault,) = faults_of(word)
    assert fault.startswith(f"{key}={word.partition('=')[2]}: unknown key; did you mean '{meant}'? Allowed: ")


def test_an_unknown_data_set_lists_all():
    (fault,) = faults_of("dataset=cifar100lt")
    assert fault == (
        "dataset=cifar100lt: there is no such dataset; did you mean 'cifar100_lt'? Allowed: "
        "cifar100_lt, cifar10_lt, cmnist_lt, digits_lt, fashion_lt, image_folder, imagenet_lt, "
        "inat18, list_files, mnist_lt, npz, places_lt, tiny_imagenet_lt."
    )


def test_all_faults_of_one_command_together():
    faults = faults_of(
        *("method=cas", "dataset=cifar100lt", "delta=1.3", "sead=1", "protocol.epochs=x", "runtime.device=cud", "a(b")
    )
    keys = ("a(b", "method=cas", "dataset=cifar100lt", "sead=1", "delta=1.3", "protocol.epochs=x", "runtime.device=cud")
    assert {fault.split(": ")[0] for fault in faults} == set(keys)


def test_a_wrong_option_is_read_as_the_nearest_so_that_the_other_words_can_be_judged():
    assert len(faults_of("method=ctr", "method.epochs=3", "method.head=new")) == 1
    assert len(faults_of("method=zzz", "method.foo=3", "sampler=uniform")) == 1
    faults = faults_of("method=ctr", "method.epochs=0")
    assert [fault.split(":")[0] for fault in faults] == ["method=ctr", "method.epochs=0"]


def test_a_copied_value_is_told_once_at_the_key_that_was_set():
    assert len(faults_of("delta=1.3")) == 1
    assert len(faults_of("protocol.stage_two.lr=-1", "method=crt")) == 1
    (fault,) = faults_of("method.delta=1.3")
    assert fault.startswith("method.delta=1.3: ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("sampler=uniform", "sampler=uniform: is not used: method=csa brings its own streams; allowed: none"),
        (
            "method=ce sampler=none",
            "sampler=none: method=ce draws its batches from the sampler and brings no streams of its own; allowed: "
            + SAMPLERS,
        ),
        (
            "method.lambda_min=0.5 method.lambda_max=0.2",
            "method.lambda_min=0.5: is above method.lambda_max; allowed: at most 0.2",
        ),
        (
            "method=csa_mixup method.mask_pass=train",
            (
                "method.mask_pass=train: with mixup (method.mixup_alpha=1.0) no training pass sees unmixed images; "
                "allowed: eval, or method.mixup_alpha=0"
            ),
        ),
        (
            "protocol.milestones=[180,160] protocol.factors=[0.1,0.01]",
            "protocol.milestones=[180, 160]: do not increase; allowed: epochs in increasing order",
        ),
        (
            "protocol.milestones=[160,180] protocol.factors=[0.1]",
            "protocol.factors=[0.1]: has 1 for 2 milestones; allowed: 2 numbers, one a milestone",
        ),
        (
            "backbone=lenet backbone.stem=large",
            "backbone.stem=large: backbone=lenet has no choice of stem; allowed: null",
        ),
        (
            "dataset.groups=[5,5]",
            "dataset.groups=[5, 5]: is not many, medium and few; allowed: three numbers of classes, or null",
        ),
        (
            "dataset.std=null",
            "dataset.std=null: does not go with dataset.mean=[0.5]; allowed: as many numbers, or null with null",
        ),
        ("dataset.std=[0]", "dataset.std=[0]: has a number that is not above 0; allowed: numbers above 0, or null"),
        (
            "protocol.nesterov=true protocol.momentum=0",
            "protocol.nesterov=true: needs momentum; allowed: false, or protocol.momentum above 0",
        ),
        (
            "method=ce sampler=power sampler.q=null",
            "sampler.q=null: is needed by sampler.rule=power; allowed: a number",
        ),
        (
            "method=cbrs sampler.images_per_visit=null",
            "sampler.images_per_visit=null: is needed by sampler.rule=class_aware; allowed: an integer, at least 1",
        ),
    ],
)
def test_rules_between_keys(words, message):
    assert faults_of(*words.split()) == [message]


def test_what_the_environment_holds_is_not_printed(monkeypatch):
    monkeypatch.setenv("SECRET", "s3cret")
    (fault,) = faults_of("delta=${oc.env:SECRET}")
    assert fault == "delta=${oc.env:SECRET}: is not a number; allowed: a number from 0 to 1"


def test_conflicting_group_words_name_the_word():
    (fault,) = faults_of("+sampler=uniform")
    assert fault.startswith("+sampler=uniform: Multiple values for sampler.")


# --- sweeps ---------------------------------------------------------------------------------


def test_a_search_is_judged_with_what_it_varies_and_kept_where_its_runs_are():
    faults = faults_of("method=ce", config_name="search_csa", to_run=False)
    assert "method.bank_size=32: unknown key; allowed: name" in faults
    assert not [fault for fault in faults if fault.startswith("delta=")]
    assert faults_of("method=ce", "hydra.mode=RUN", config_name="search_csa", to_run=False) == []
    for words in ((), ("output_root=new",)):
        storage = preflight(words, "search_csa", to_run=False).composed.sweeper["storage"]
        assert storage == f"sqlite:///{'new' if words else 'outputs'}/search_csa.db"


def test_every_value_of_a_sweep_is_checked():
    words = ("delta=0,0.5,2", "seed=range(-1,5)", "method=choice(csa,cas)", "variant=a,b")
    assert [fault.split(": ")[0] for fault in faults_of(*words, multirun=True)] == ["seed=-1", "delta=2", "method=cas"]
    assert faults_of("delta=0,0.1", "seed=range(1000)", "method=glob(c*)", multirun=True) == []
    assert len(faults_of("delta=interval(0,2)", multirun=True)) == 1


def test_a_sweep_over_methods_is_judged_from_its_first_cell():
    assert faults_of("method=crt,csa", "method.images_per_visit=1,2", multirun=True) == []
    (fault,) = faults_of("method=csa,ce", "method.bank=true,false", multirun=True)
    assert fault == "method.bank=true: unknown key; allowed: name"


def test_a_thousand_cells_cost_as_many_compositions_as_there_are_group_choices(monkeypatch):
    composed, compose = [], Tree.compose
    monkeypatch.setattr(request, "Composer", Composer)  # that knows nothing yet
    monkeypatch.setattr(Tree, "compose", lambda tree, words: composed.append(words) or compose(tree, words))
    values = ",".join(str(number / 20) for number in range(20))
    assert (
        faults_of(f"delta={values}", "seed=range(10)", "method=csa,csa_mixup", "runtime.threads=1,2,3", multirun=True)
        == []
    )
    assert len(composed) == 2


# --- other primary configurations -----------------------------------------------------------


def test_sweep_files_are_found_and_their_names_known(tmp_path, monkeypatch):
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "table2.yaml").write_text("defaults: [config, _self_]\nhydra: {mode: MULTIRUN}\nseed: 3\n")
    monkeypatch.setattr("csa.config.composition.sweeps_dir", lambda: tmp_path / "sweeps")
    monkeypatch.setattr(request, "Tree", Tree)  # those of the other tests have the folder that is there
    assert faults_of(config_name="table2") == []
    assert faults_of("delta=0,1", config_name="table2") == []
    assert faults_of(config_name="tabel2") == [
        "--config-name=tabel2: there is no such file; did you mean 'table2'? Allowed: config, table2."
    ]


# --- data and machine -----------------------------------------------------------------------


def test_faults_of_the_data_come_with_those_of_the_words():
    faults = faults_of("dataset.max_per_class=5000", "delta=2")
    assert [fault.split(": ")[0] for fault in faults] == ["delta=2", "dataset.max_per_class=5000"]


def test_no_data_fault_while_the_data_set_is_in_doubt():
    assert [fault.split(":")[0] for fault in faults_of("dataset.max_per_class=5000", "dataset.cap=maybe")] == [
        "dataset.cap=maybe"
    ]


def test_missing_data_without_download(tmp_path):
    (fault,) = faults_of("dataset=mnist_lt", "download=false", f"data_dir={tmp_path}/none")
    assert "download" in fault


def test_a_data_set_is_inspected_once(monkeypatch):
    inspected = []
    monkeypatch.setattr("csa.data.dataset.inspect", lambda dataset, *_: inspected.append(dataset.imbalance_ratio) or [])
    assert faults_of("dataset.imbalance_ratio=2,3", "delta=0,0.1,0.2", "method=csa,ce", multirun=True) == []
    assert inspected == [2.0, 3.0]


def test_images_too_small_for_the_backbone(tmp_path):
    arrays = {"x_train": (4, 6, 10), "x_test": (4, 6, 10)}
    images = {key: np.zeros(shape, np.uint8) for key, shape in arrays.items()}
    np.savez(tmp_path / "small.npz", y_train=[0, 0, 1, 1], y_test=[0, 0, 1, 1], **images)
    (fault,) = faults_of("dataset=npz", f"dataset.path={tmp_path}/small.npz")
    assert fault == "backbone=resnet32: cannot take images of 6x10 pixels; allowed: sides of at least 8 pixels"


@pytest.mark.parametrize(
    ("device", "problem"),
    [("cuda", "this machine has no CUDA device that torch can use"), ("mps", "torch sees no Apple GPU here")],
)
def test_a_gpu_that_is_not_there(device, problem, monkeypatch):
    none = SimpleNamespace(is_available=lambda: False)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=none, backends=SimpleNamespace(mps=none)))
    (fault,) = faults_of(f"runtime.device={device}")
    assert fault == f"runtime.device={device}: {problem}; allowed: auto, cpu"


def test_weights_that_are_not_there(tmp_path):
    (fault,) = faults_of("backbone=timm", f"backbone.weights={tmp_path}/lost.pt")
    assert fault.startswith(f"backbone.weights={tmp_path}/lost.pt: there is no such file; allowed: a file of weights, ")
    assert faults_of("backbone=timm", "backbone.weights=a1_in1k") == []


def test_output_folder(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    (fault,) = faults_of(f"output_root={tmp_path}/file/outputs")
    assert fault.endswith("/file is not a folder; allowed: a folder that can be written")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    (fault,) = faults_of(f"output_root={tmp_path}/new/outputs")
    assert fault.startswith(f"output_root={tmp_path}/new/outputs: {tmp_path} cannot be written to")


def test_read_only_mount(tmp_path, monkeypatch):
    class Mount:
        f_flag = os.ST_RDONLY

    monkeypatch.setattr(os, "statvfs", lambda path: Mount)
    (fault,) = faults_of()
    assert fault.startswith("output_root=outputs: ")


# --- other entries --------------------------------------------------------------------------

EXTRA = {"format": ("table", "json"), "run": ()}


def test_configure_gives_the_configuration_and_the_entrys_own_words():
    config, own = configure(["dataset=cifar100_lt", "dataset.imbalance_ratio=50", "run=abc=d"], extra=EXTRA)
    assert (config.dataset.name, config.dataset.imbalance_ratio) == ("cifar100_lt", 50.0)
    assert own == {"format": "table", "run": "abc=d", "--config-dir": ""}
    assert configure(["format=json"], extra=EXTRA)[1] == {"format": "json", "run": "", "--config-dir": ""}


def test_every_entry_takes_options_of_another_package(tmp_path):
    (tmp_path / "backbone").mkdir()
    (tmp_path / "backbone" / "mine.yaml").write_text("name: mine\ntarget: a.B\nstem: null\nmin_size: 12\n")
    for words in (["--config-dir", str(tmp_path)], [f"--config-dir={tmp_path}"], ["-cd", str(tmp_path)]):
        config, own = configure([*words, "format=json", "backbone=mine"], extra=EXTRA)
        assert (config.backbone.name, own["--config-dir"], own["format"]) == ("mine", str(tmp_path), "json")
    for words, told in (
        (["--config-dir", "nowhere"], "--config-dir=nowhere: there is no such folder"),
        (["seed=1", "--config-dir"], "--config-dir: needs a folder; allowed: --config-dir mine/conf"),
    ):
        with pytest.raises(UserError, match=told):
            configure(words, extra=EXTRA)


def test_smoke_is_spelt_out_wherever_a_run_is_meant():
    assert preflight(["smoke=true", "protocol.epochs=9"]).config.protocol.epochs == 2
    config, _ = configure(["smoke=true", "dataset=mnist_lt"], takes=("dataset",), passes_over=KEYS)
    assert (config.dataset.name, config.dataset.source) == ("mnist_lt", "csa.data.sources.tiny.TinySource")
    with pytest.raises(UserError) as caught:
        configure(["smoke=true"], takes=("dataset",))
    assert [fault.key for fault in caught.value.faults] == ["smoke"]


def test_configure_tells_all_faults():
    with pytest.raises(UserError) as caught:
        configure(["format=jsn", "fromat=json", "seed=a", "delta=1,2"], extra=EXTRA)
    assert [(fault.key, fault.nearest) for fault in caught.value.faults] == [
        ("format", "json"),
        ("delta", ""),
        ("fromat", "format"),
        ("seed", ""),
    ]


OF_DATA = "format, check, dataset, data_dir, download, output_root"


@pytest.mark.parametrize(
    ("entry", "word", "told"),
    [
        (report, "output=x", "unknown key; did you mean 'to'? Allowed: table, figure, compare, "),
        (report, "method=csa", "unknown key; did you mean 'methods'? Allowed: table, figure, compare, "),
        (records, "outdir=x", "unknown key; did you mean 'to'? Allowed: mode, state, format, yes, "),
        (records, "delta=1", "unknown key; allowed: mode, state, format, yes, replace, run, to, output"),
        (evaluate, "image=x", "unknown key; did you mean 'images'? Allowed: run, images, to, top, head, "),
        (evaluate, "hydra.mode=RUN", "unknown key; allowed: run, images, to, top, head, output_root"),
        (data, "fromat=x", f"unknown key; did you mean 'format'? Allowed: {OF_DATA}."),
    ],
)
def test_an_entry_names_its_own_words(entry, word, told, capsys):
    with pytest.raises(SystemExit, match="2"):
        entry.main([word])
    (_, fault) = capsys.readouterr().err.splitlines()
    assert fault.startswith(f"  {word}: {told}")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["method=tau_norm", "method.tau=null"],
            (
                "method.tau=null: is tuned on validation images, and there are none; allowed: a number, or "
                "validation images: dataset.holdout_share=0.1, dataset.holdout=20, or those of the data set's own"
            ),
        ),
        (
            ["method=cam_bs", "method.min_scale=1.3"],
            "method.min_scale=1.3: is above method.max_scale; allowed: at most 1.2",
        ),
        (
            ["method=cam_bs", "method.start_epoch=20"],
            "method.start_epoch=20: leaves none of the 20 epochs to stage two; allowed: below 20",
        ),
        (
            ["method=oltr", "method.first_epochs=21"],
            "method.first_epochs=21: is more than the 20 epochs of both stages; allowed: at most 20",
        ),
        (
            ["method=cb_focal", "method.beta=1"],
            "method.beta=1: is out of range; allowed: a number from 0 to 0.999999999",
        ),
    ],
)
def test_rules_of_the_other_methods(words, message):
    assert faults_of(*words) == [message]


# --- where MLflow keeps its runs ----------------------------------------------------------------

IN_A_FOLDER = "MLflow keeps runs in no folder or plain file (but for MLFLOW_ALLOW_FILE_STORE=true)"


@pytest.mark.parametrize(
    ("uri", "problem", "meant"),
    [
        ("mine.db", IN_A_FOLDER, "sqlite:///mine.db"),
        ("sqlite:mine.db", IN_A_FOLDER, "sqlite:///mine.db"),
        ("file:///tmp/runs", IN_A_FOLDER, ""),
        ("sqlite://mine.db", "names no file", "sqlite:///mine.db"),
        ("sqlite:///", "names no file", ""),
        ("sqlite:///:memory:", "names no file", ""),
        ("sqlite:///text.txt", "is no database", ""),
        ("sqlite:///text.txt/mine.db", "is not a folder", ""),
        ("htp://host:5000", "MLflow knows no htp://", "http://host:5000"),
        ("http://", "names no server", ""),
        ("http://host:port", "names no server", ""),
        ("mysql+nothing://host/runs", "cannot be used (Can't load plugin: sqlalchemy.dialects:mysql.nothing)", ""),
    ],
)
def test_the_address_of_mlflow_is_looked_at_before_anything_runs(tmp_path, uri, problem, meant):
    (tmp_path / "text.txt").write_text("no database")
    with pytest.raises(UserError) as told:
        preflight([f"tracking.uri='{uri}'"])
    (fault,) = told.value.faults
    assert (fault.key, fault.value, fault.nearest) == ("tracking.uri", uri, meant)
    assert fault.problem.endswith(problem)
    assert faults_of(f"tracking.uri='{uri}'", "tracking.target=null") == []  # nobody will go there


@pytest.mark.parametrize(
    "uri",
    ["sqlite:///new.db", "sqlite:///made.db?timeout=9", "http://127.0.0.1:9", "https://me:word@host", "databricks"],
)
def test_whether_it_is_there_nobody_asks(tmp_path, uri):
    (tmp_path / "made.db").write_bytes(b"SQLite format 3\0...")
    assert faults_of(f"tracking.uri='{uri}'") == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made.db"]


def test_the_environment_says_where_mlflow_is(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert preflight(["seed=1"]).config.tracking.uri == "http://127.0.0.1:9"
    assert preflight(["tracking.uri=sqlite:///mine.db"]).config.tracking.uri == "sqlite:///mine.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "./mlruns")
    assert "(it comes from MLFLOW_TRACKING_URI); did you mean 'sqlite:///./mlruns'?" in faults_of("seed=1")[0]
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert preflight(["seed=1"]).config.tracking.uri is None


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        (DEFAULT_URI, "mlflow ui --backend-store-uri sqlite:///mlflow.db"),
        ("sqlite:///my runs.db", "mlflow ui --backend-store-uri 'sqlite:///my runs.db'"),
        ("http://127.0.0.1:9", "http://127.0.0.1:9"),
        (
            "postgresql+psycopg://host/runs?a=1&b=2",
            "mlflow ui --backend-store-uri 'postgresql+psycopg://host/runs?a=1&b=2'",
        ),
    ],
)
def test_how_to_browse_works_as_typed(uri, told):
    assert how_to_browse(uri) == told
