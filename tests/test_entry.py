"""The command line as people use it: help, mistakes, interrupts, sweeps; and how fast it answers."""

from __future__ import annotations

import errno
import getpass
import os
import pwd
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from csa.cli import disk_trouble, fault_list, queue_again_on_sigterm, reporting_faults, settle_process
from csa.config.faults import Fault, UserError
from csa.config.locations import conf_dir
from csa.entry import hydra_main


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


METHODS = sorted(path.stem for path in (conf_dir() / "method").glob("*.yaml"))


def command(monkeypatch, task, *words):
    monkeypatch.setattr(sys, "argv", ["csa", *words])
    hydra_main(task)


def python(code: str, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, env=environment, check=False
    )


def test_the_task_receives_the_typed_configuration(monkeypatch, tmp_path):
    received = []
    command(monkeypatch, received.append, "delta=0.3", "dataset=cifar100_lt")
    assert [(config.method.delta, config.dataset.name) for config in received] == [(0.3, "cifar100_lt")]
    assert list(tmp_path.iterdir()) == []


def test_faults_are_listed_and_nothing_runs(monkeypatch, capsys, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        command(monkeypatch, pytest.fail, "delta=1.3", "method=cas")
    assert stopped.value.code == 2
    assert capsys.readouterr().err.splitlines() == [
        "csa: 2 faults; nothing was run or written",
        f"  method=cas: there is no such method; did you mean 'csa'? Allowed: {', '.join(METHODS)}.",
        "  delta=1.3: is out of range; allowed: a number from 0 to 1",
    ]
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_takes_nothing_more_ends_in_a_line(monkeypatch, capsys):
    def task(_config):
        raise OSError(errno.ENOSPC, "No space left on device", "outputs/metrics.jsonl")

    with pytest.raises(SystemExit) as stopped:
        command(monkeypatch, task)
    assert stopped.value.code == 1
    assert capsys.readouterr().err == "csa: No space left on device: outputs/metrics.jsonl\n"
    assert disk_trouble(OSError(errno.EROFS, "Read-only file system"), "there") == "Read-only file system: there"
    with pytest.raises(FileNotFoundError), reporting_faults():  # that would be a mistake of ours
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "outputs")


@pytest.mark.parametrize(
    ("error", "asked"),
    [
        (MemoryError(), ""),
        (MemoryError("Unable to allocate 7.28 TiB for an array with shape (1, 2)"), " (7.28 TiB were asked for)"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 800 bytes. Error code 12"),
            " (800 bytes were asked for)",
        ),
        (RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has"), " (20.00 GiB were asked for)"),
        (RuntimeError("std::bad_alloc"), ""),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), ""),
    ],
)
def test_memory_that_has_run_out_ends_in_a_line(monkeypatch, capsys, error, asked):
    def task(_config):
        raise error

    with pytest.raises(SystemExit) as stopped:
        command(monkeypatch, task)
    assert stopped.value.code == 1
    told = capsys.readouterr().err
    assert told.startswith(f"csa: out of memory{asked}; lower protocol.batch_size, ")
    assert told.count("\n") == 1


def test_a_mistake_found_by_the_task_is_listed_too(monkeypatch, capsys):
    def task(config):
        raise UserError(Fault("dataset.path", "x.npz", "is torn", "a whole file"))

    with pytest.raises(SystemExit) as stopped:
        command(monkeypatch, task)
    assert stopped.value.code == 2
    assert "  dataset.path=x.npz: is torn; allowed: a whole file" in capsys.readouterr().err.splitlines()


def test_a_bug_keeps_its_traceback(monkeypatch):
    def task(config):
        raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError, match="a bug"):
        command(monkeypatch, task)


def test_the_tasks_own_exit_status_and_ctrl_c(monkeypatch, capsys):
    def leave(config):
        raise SystemExit(75)

    def interrupt(config):
        raise KeyboardInterrupt

    for task, status in ((leave, 75), (interrupt, 130)):
        with pytest.raises(SystemExit) as stopped:
            command(monkeypatch, task)
        assert stopped.value.code == status
    assert capsys.readouterr().err == "csa: interrupted\n"


BASIC = ("-m", "hydra/sweeper=basic", "hydra/launcher=basic")
"""Hydra's own parts instead of ours."""


def test_a_sweep_reaches_hydra(monkeypatch, tmp_path):
    seen = []
    command(monkeypatch, lambda config: seen.append((config.seed, config.delta)), *BASIC, "seed=0,1", "delta=0,0.5")
    assert seen == [(0, 0.0), (0, 0.5), (1, 0.0), (1, 0.5)]
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["multirun.yaml"]


def test_a_fault_in_a_sweep_is_found_before_its_first_cell(monkeypatch, capsys, tmp_path):
    with pytest.raises(SystemExit):
        command(monkeypatch, pytest.fail, "-m", "delta=0,0.5,1.5")
    assert "delta=1.5: is out of range" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_help_shows_commands_groups_and_defaults(monkeypatch, capsys):
    with pytest.raises(SystemExit) as stopped:
        command(monkeypatch, pytest.fail, "--help")
    shown = capsys.readouterr().out
    assert stopped.value.code == 0
    assert "python -m csa.run dataset=cifar100_lt method=csa" in shown
    assert f"method: {', '.join(METHODS)}" in shown
    assert "delta: 0.8" in shown


@pytest.mark.parametrize(
    ("words", "path", "value"),
    [
        ("seed=3", "seed", 3),
        ("dataset=cifar100_lt method=ldam_drw protocol=published", "protocol.name", "cifar_ldam"),
        ("-m delta=0.1,0.2,...,0.9", "delta", 0.1),
        ("plan=true dataset=imagenet_lt", "dataset.name", "imagenet_lt"),  # whose data is not here
        ("smoke=true", "protocol.epochs", 2),
    ],
)
def test_cfg_shows_what_a_command_would_run(monkeypatch, capsys, words, path, value):
    command(monkeypatch, pytest.fail, "--cfg", "job", *words.split())
    assert OmegaConf.select(OmegaConf.create(capsys.readouterr().out), path) == value


def test_cfg_of_a_command_with_faults_lists_them(monkeypatch, capsys):
    with pytest.raises(SystemExit, match="2"):
        command(monkeypatch, pytest.fail, "--cfg", "job", "metod=ce", "delta=0,1")
    told = capsys.readouterr()
    assert told.out == ""
    assert [line.split(":")[0] for line in told.err.splitlines()[1:]] == ["  delta=0,1", "  metod=ce"]


MINE = """
defaults: [config, {override method: ce}, _self_]
hydra: {mode: MULTIRUN, sweeper: {params: {seed: "0,1,...,3", protocol.epochs: 3}}}
"""


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "4 cells, 4 runs: 0 done, 0 running, 0 interrupted, 0 failed, 4 planned"),
        (("seed=1,2,...,9",), "9 cells, 9 runs"),
        (("seed=1", "protocol.epochs=x"), "protocol.epochs=x: is not an integer"),
        (("method=zz",), "method=zz: there is no such method"),
    ],
)
def test_a_configuration_of_ones_own_may_vary_keys(monkeypatch, capsys, words, told):
    Path("conf").mkdir()
    Path("conf/mine.yaml").write_text(MINE)
    own = ("--config-dir", "conf", "-cn", "mine", "plan=true", "sweep.calibrate=false")
    with pytest.raises(SystemExit, match="2") if "is no" in told or "no such" in told else nullcontext():
        command(monkeypatch, pytest.fail, *own, *words)
    assert told in "".join(capsys.readouterr())


OWN = {
    "method/gentle.yaml": "defaults: [ce, _self_]\nname: gentle\n",
    "experiment/quick.yaml": "# @package _global_\ndefaults: [{override /method: gentle}]\nseed: 7\n",
    "grids.yaml": "defaults: [config, _self_]\nhydra: {mode: MULTIRUN}\n"
    "cells: [{method: [gentle, ce], delta: '0, 0.5, ..., 1'}, {method: crt}]\n",
    "ranges.yaml": "defaults: [search, {override /method: gentle}, _self_]\ndataset: {holdout: 2}\n"
    "search: {protocol.lr: 'interval(0.01, 0.1)', protocol.weight_decay: null}\n",
}
PLAN = ("plan=true", "sweep.calibrate=false")


def write_own() -> None:
    for name, content in OWN.items():
        path = Path("own", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("method=gentle", *PLAN), ("1 cell, 1 run: 0 done, 0 running, 0 interrupted, 0 failed, 1 planned",)),
        (("-m", "+experiment=quick", "method=gentle,ce", "delta=0,0.1,...,0.9", *PLAN), ("20 cells, 2 runs",)),
        (("-cn", "grids", *PLAN), ("7 cells, 3 runs",)),
        (("-cn", "ranges", *PLAN), ("0 trials done, 0 failed, 20 to do",)),
        (
            ("method=gentel", "+experiment=quik"),
            (
                "method=gentel: there is no such method; did you mean 'gentle'?",
                "experiment=quik: there is no such experiment; did you mean 'quick'? Allowed: quick.",
            ),
        ),
        (("-cn", "gridz"), ("--config-name=gridz: there is no such file; did you mean 'grids'?",)),
    ],
)
def test_a_folder_of_ones_own_has_every_right_of_ours(monkeypatch, capsys, words, told):
    write_own()
    with nullcontext() if "plan=true" in words else pytest.raises(SystemExit, match="2"):
        command(monkeypatch, pytest.fail, "--config-dir", "own", *words)
    shown = "".join(capsys.readouterr())
    assert all(text in shown for text in told)
    assert not Path("outputs/digits_lt").exists()


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (("method=gentle", "smoke=true"), ("gentle", "smoke", "csa.data.sources.tiny.TinySource", 0)),
        (("+experiment=quick",), ("gentle", "", "csa.data.sources.DigitsSource", 7)),
    ],
)
def test_a_run_of_ones_own_options(monkeypatch, words, values):
    write_own()
    received = []
    command(monkeypatch, received.append, "--config-dir", "own", *words)
    (config,) = received
    assert (config.method.name, config.variant, config.dataset.source, config.seed) == values


def test_values_that_a_configuration_varies_are_checked(monkeypatch, capsys):
    Path("conf").mkdir()
    Path("conf/mine.yaml").write_text(MINE.replace("1,...,3", "x"))
    with pytest.raises(SystemExit, match="2"):
        command(monkeypatch, pytest.fail, "--config-dir", "conf", "-cn", "mine")
    assert "seed=x: is not an integer" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (("--config-dir", "nowhere"), "--config-dir=nowhere: there is no such folder"),
        (("--config-path", "conf"), "--config-path=conf: is Hydra's, and csa has a configuration tree of its own"),
        (("-m", "hydra.sweep.dir=a,b"), "hydra.sweep.dir=a,b: cannot be read (Hydra's own settings are the same"),
        (("-m", "+hydra.launcher.x=${nope}"), "hydra.launcher.x=${nope}: Interpolation key 'nope' not found"),
        (("-m", "hydra.sweeper._target_=os"), "hydra: cannot be set up (Unknown plugin class : 'os')"),
        (
            ("-m", *BASIC[1:], "hydra.sweep.subdir=${nope}"),
            "hydra: cannot be set up (Interpolation key 'nope' not found)",
        ),
        (("--run", "--multirun"), "hydra: cannot be set up (Only one of --run, --multirun"),
    ],
)
def test_what_hydra_does_not_take(monkeypatch, capsys, words, fault):
    with pytest.raises(SystemExit, match="2"):
        command(monkeypatch, pytest.fail, *words)
    assert fault in capsys.readouterr().err


TORCH_FREE = """
import sys
from csa.entry import hydra_main
try:
    hydra_main(lambda config: None)
finally:
    heavy = {"torch", "mlflow", "lightning_fabric", "optuna", "sklearn", "pandas"} & set(sys.modules)
    print(f"\\nheavy: {sorted(heavy)}")
"""


@pytest.mark.parametrize("words", [("--help",), ("delta=1.3", "method=cas"), ("dataset=cifar100_lt",)])
def test_answers_without_heavy_imports(words, tmp_path):
    assert python(TORCH_FREE, *words).stdout.splitlines()[-1] == "heavy: []"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("watched", [True, False])
def test_in_a_terminal_a_run_ends_with_commands_to_go_on_with(watched, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["csa", "method=ce", "tracking=none"])
    monkeypatch.setattr(sys.stdout, "isatty", lambda: watched)
    hydra_main(lambda config: None)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition("#")[0].split()[-2:] for line in lines[1:2]] == [
        ["method=ce,csa", "seed=0,1,2,3,4"]
    ] * watched
    assert lines[:1] == ["next:"] * watched


def test_run_names_the_faults_from_the_shell():
    done = subprocess.run([sys.executable, "-m", "csa.run", "metod=csa"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(
        "csa: 1 fault; nothing was run or written\n  metod=csa: unknown key; did you mean 'method'?"
    )
    assert done.stdout == ""


def test_reporting_faults_as_a_decorator(capsys):
    @reporting_faults()
    def entry():
        raise UserError(Fault("a", 1, "is wrong"))

    with pytest.raises(SystemExit, match="2"):
        entry()
    assert capsys.readouterr().err == "csa: 1 fault; nothing was run or written\n  a=1: is wrong\n"


def test_whoever_is_asked_to_end_before_training_may_be_started_again(capsys):
    before = signal.getsignal(signal.SIGTERM)
    queue_again_on_sigterm()
    try:
        with pytest.raises(SystemExit, match="75"):
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert capsys.readouterr().err == "csa: stopped; the same command starts it again\n"


def test_a_user_without_a_name_is_called_by_the_number(monkeypatch):
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)
    settle_process()
    assert getpass.getuser() == str(os.getuid())


def test_fault_list():
    assert fault_list([Fault("a", 1, "p"), Fault("b", None, "q", "r", "s")]) == (
        "csa: 2 faults; nothing was run or written\n  a=1: p\n  b: q; did you mean 's'? Allowed: r."
    )
