"""The README's commands are run: those that set up are what CI runs, the others on tiny data."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
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


def test_every_block_is_run_by_a_test():
    assert len(COMMANDS) == len(SET_UP) + len(RUNS) + len(REPORTS) + len(DATA)
