"""The README's commands are run: those that set up are what CI runs, the others on tiny data; its Python is typed."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_words import TINY

import csa

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
(PYTHON,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.strip().splitlines()]
SET_UP = [line for line in COMMANDS if "venv" in line]
RUNS = [line for line in COMMANDS if line.startswith("python -m csa.run")]
REPORTS = [line for line in COMMANDS if line.startswith("python -m csa.report")]
DATA = [line for line in COMMANDS if line.startswith("python -m csa.data")]


def test_the_set_up_is_two_commands_and_ci_runs_the_second():
    assert len(SET_UP) == 2
    install, test = SET_UP
    assert install.endswith(".venv/bin/python -m csa.run")
    assert test.endswith(".venv/bin/python -m pytest")
    assert test.replace("pip install -e", "pip install --quiet -e") in (ROOT / ".ci" / "run").read_text()
    assert test in (ROOT / "CONTRIBUTING.md").read_text()


@pytest.mark.parametrize("line", RUNS)
def test_a_run_of_the_readme_runs(line, tmp_path):
    words = [*shlex.split(line)[1:], "smoke=true", "tracking=none", "runtime.threads=1"]
    process = subprocess.run(
        [sys.executable, *words], cwd=tmp_path, capture_output=True, text=True, timeout=900, check=False
    )
    assert process.returncode == 0, process.stderr
    assert list(tmp_path.glob("outputs/*/*/*/result.json"))


@pytest.mark.parametrize("line", DATA)
def test_a_data_command_of_the_readme_runs(line, tmp_path):
    process = subprocess.run(
        [sys.executable, *shlex.split(line)[1:]], cwd=tmp_path, capture_output=True, text=True, timeout=900, check=False
    )
    assert process.returncode == 0, process.stderr
    assert "bea49e5d1562ab55" in process.stdout


@pytest.mark.parametrize("line", REPORTS)
def test_a_report_of_the_readme_is_written_even_where_nothing_was_run(line, tmp_path):
    words = [*shlex.split(line)[1:], "tracking=none"]
    process = subprocess.run(
        [sys.executable, *words], cwd=tmp_path, capture_output=True, text=True, timeout=900, check=False
    )
    assert process.returncode == 0, process.stderr
    assert "no finished run is recorded" in process.stderr
    table = tmp_path / "outputs" / "report" / "tables" / "table1.md"
    assert "39.1" in table.read_text()  # CE on CIFAR-100-LT, published


def test_the_python_of_the_readme_is_typed_line_by_line(tmp_path, monkeypatch):
    """As it stands, of shorter runs; what its lines show is what their comments say."""
    monkeypatch.chdir(tmp_path)
    csa.train("method=ce", *TINY)
    typed = PYTHON.replace('"seed=0")', '"seed=0", *TINY)').replace('"3f2a"', "run.fingerprint[:4]")
    known = {"TINY": TINY, "images": np.zeros((2, 16, 16, 1), dtype=np.uint8)}
    shown = []
    for line in ast.parse(typed).body:
        if isinstance(line, ast.Expr):
            shown.append(eval(ast.unparse(line), known))
        else:
            exec(ast.unparse(line), known)
    report, confusion, table, compared = shown
    assert list(report.columns) == ["training images", "group", "uniform", "balanced", "mean"]
    assert confusion.to_numpy().sum() == 10 * 5
    assert known["probabilities"].sum(1) == pytest.approx([1, 1], abs=1e-5)
    assert known["network"](__import__("torch").zeros(3, 1, 16, 16)).shape == (3, 10)
    assert known["run"].method == "csa"
    assert list(table["line"]) == ["CE", "CSA"]
    assert table["difference"].iloc[1] == pytest.approx(compared["difference"].iloc[0])
    assert list(known["frame"]["head"]) == ["classifier", "uniform", "balanced", "mean"]


def test_every_block_is_run_by_a_test():
    assert len(COMMANDS) == len(SET_UP) + len(RUNS) + len(REPORTS) + len(DATA)
