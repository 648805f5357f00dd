"""``csa`` as a command, and its completion in a real shell."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from csa import __main__ as command
from csa.completion import SCRIPTS, candidates, main


def csa(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "csa", *words], capture_output=True, text=True, check=False)


def test_it_hands_its_words_to_an_entry():
    done = csa("data", "format=json")
    assert done.returncode == 0
    assert '"total": 294' in done.stdout
    assert csa("run", "metod=ce").stderr == csa_run("metod=ce").stderr


def csa_run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "csa.run", *words], capture_output=True, text=True, check=False)


def test_help_and_a_command_that_is_not_there(capsys, monkeypatch):
    for words in ([], ["--help"]):
        monkeypatch.setattr(sys, "argv", ["csa", *words])
        with pytest.raises(SystemExit, match="0"):
            command.main()
        told = capsys.readouterr().out
        assert all(f"csa {name} " in told for name in command.ENTRIES)
    monkeypatch.setattr(sys, "argv", ["csa", "rum"])
    with pytest.raises(SystemExit, match="2"):
        command.main()
    assert "csa=rum: there is no such command; did you mean 'run'?" in capsys.readouterr().err


@pytest.mark.parametrize("module", ["csa", "csa.records", "csa.report"])
def test_help_outlives_its_reader(module):
    done = subprocess.run(
        f"{sys.executable} -m {module} --help | true", shell=True, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("csa re", "records report"),
        ("csa run data", "data_dir= dataset. dataset="),
        ("csa run dataset=ci", "dataset=cifar100_lt dataset=cifar10_lt"),
        ("csa run method=csa method.del", "method.delta="),
        ("csa run method=ce method.del", ""),
        ("csa run delta=", "delta=0.8"),
        ("csa run metod=x tracking.mod", "tracking.model="),
        ("csa run download=", "download=false download=true"),
        ("csa report source=r", "source=records source=runs"),
        ("csa data check=", "check=images check=lists"),
        ("csa export fo", "format="),
        ("csa run nothing=", ""),
    ],
)
def test_words_that_may_stand_there(line, found):
    assert " ".join(candidates(line)) == found


def in_bash(line: str, folder: Path) -> list[str]:
    program = folder / "csa"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m csa "$@"\n')
    program.chmod(0o755)
    script = (
        f'{SCRIPTS["bash"]}\nCOMP_LINE="{line}"; COMP_POINT=${{#COMP_LINE}}; _csa; printf "%s\\n" "${{COMPREPLY[@]}}"'
    )
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script], env={**os.environ, "PATH": path}, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_completes_what_stands_behind_the_equals_sign(tmp_path):
    assert in_bash("csa run dataset=ci", tmp_path) == ["cifar100_lt", "cifar10_lt"]
    assert in_bash("csa run runtime.pro", tmp_path) == ["runtime.profile=", "runtime.progress="]


def test_scripts_of_shells(capsys):
    for shell, script in SCRIPTS.items():
        main([shell])
        assert capsys.readouterr().out == f"{script}\n"
    with pytest.raises(SystemExit, match="2"):
        main(["bsh"])
    assert "did you mean 'bash'?" in capsys.readouterr().err
