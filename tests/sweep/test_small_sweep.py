"""A sweep as a person starts it, twice: at the second start nothing is left to do."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from tiny_words import TINY

WORDS = (*TINY, "protocol.epochs=1", "method=ce", "seed=0,1")


def sweep(cwd, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "csa.run", "-m", *WORDS, *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)


def results(cwd) -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in cwd.glob("outputs/*/*/*/result.json")}


def test_done_cells_are_skipped(tmp_path):
    first = sweep(tmp_path)
    assert first.returncode == 0, first.stderr
    before = results(tmp_path)
    assert len(before) == 2
    seeds = {json.loads(path.read_text())["run"]["seed"] for path in tmp_path.glob("outputs/*/*/*/result.json")}
    assert seeds == {0, 1}
    again = sweep(tmp_path)
    assert again.returncode == 0, again.stderr
    assert results(tmp_path) == before
    assert "2 runs: 2 done" in again.stdout


def test_a_plan_trains_nothing_and_counts_the_cells(tmp_path):
    process = subprocess.run(
        [sys.executable, "-m", "csa.run", "-m", *TINY, "delta=0,0.1,...,0.9", "plan=true", "sweep.calibrate=false"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    assert "10 cells, 10 runs: 0 done, 0 running, 0 interrupted, 0 failed, 10 planned" in process.stdout
    assert not list(tmp_path.glob("outputs/*/*/*/config.yaml"))


@pytest.mark.parametrize("name", ["table1", "table2", "table3", "table4", "table5", "figure4"])
def test_every_sweep_file_is_planned_on_tiny_data(name, tmp_path):
    words = ["-cn", name, "plan=true", "smoke=true", "sweep.calibrate=false"]
    process = subprocess.run(
        [sys.executable, "-m", "csa.run", *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    assert " cells, " in process.stdout
    assert " planned" in process.stdout
