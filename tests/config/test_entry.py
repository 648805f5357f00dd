"""The command line as people use it: help, mistakes, interrupts, sweeps; and how fast it answers."""

from __future__ import annotations

import getpass
import os
import pwd
import signal
import subprocess
import sys

import pytest

from csa.cli import fault_list, queue_again_on_sigterm, reporting_faults, settle_process
from csa.config.entry import hydra_main
from csa.config.faults import Fault, UserError
from csa.config.locations import conf_dir


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


def test_a_mistake_found_by_the_task_is_listed_too(monkeypatch, capsys):
    def task(config):
        raise UserError(Fault("dataset.path", "x.npz", "is torn", "a whole file"))

    with pytest.raises(SystemExit) as stopped:
        command(monkeypatch, task)
    assert stopped.value.code == 2
    assert "  dataset.path=x.npz: is torn; allowed: a whole file" in capsys.readouterr().err.splitlines()


def test_a_bug_keeps_its_traceback(monkeypatch, capsys):
    def task(config):
        raise ZeroDivisionError("a bug")

    with pytest.raises(SystemExit) as stopped:
        command(monkeypatch, task)
    error = capsys.readouterr().err
    assert stopped.value.code == 1
    assert "Traceback" in error
    assert "ZeroDivisionError: a bug" in error
    assert "HYDRA_FULL_ERROR" not in error


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


def test_cfg_shows_the_job(monkeypatch, capsys):
    command(monkeypatch, pytest.fail, "--cfg", "job", "seed=3")
    assert "seed: 3" in capsys.readouterr().out


TORCH_FREE = """
import sys, time
start = time.perf_counter()
from csa.config.entry import hydra_main
try:
    hydra_main(lambda config: None)
finally:
    heavy = {"torch", "mlflow", "lightning_fabric", "optuna", "sklearn", "pandas"} & set(sys.modules)
    print(f"\\nheavy: {sorted(heavy)} {time.process_time():.2f}")
"""


@pytest.mark.parametrize("words", [("--help",), ("delta=1.3", "method=cas"), ("dataset=cifar100_lt",)])
def test_answers_without_heavy_imports_within_a_second_and_a_half(words, tmp_path):
    last = python(TORCH_FREE, *words).stdout.splitlines()[-1]
    assert last.startswith("heavy: [] ")
    assert float(last.split()[-1]) < 1.5
    assert list(tmp_path.iterdir()) == []


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
