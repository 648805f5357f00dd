"""CONTRIBUTING's examples are complete: written to files as they stand, they train, resume and are read again."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from csa import report, runs, train

TEXT = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()
FILES = re.findall(r"```(?:python|yaml)\n# (mine/\S+)\n(.*?)```", TEXT, flags=re.DOTALL)
(COMMAND,) = re.findall(r"^python (-m csa\.run --config-dir .*)$", TEXT, flags=re.MULTILINE)
QUICK = ("tracking=none", "runtime.threads=1", "runtime.device=cpu")


@pytest.fixture
def mine(tmp_path):
    for name, content in FILES:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return tmp_path


def csa(folder: Path, *words: str) -> str:
    process = subprocess.run(
        [sys.executable, *words], cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


def test_there_is_an_example_of_each():
    assert {Path(name).parent.name for name, _ in FILES if name.endswith("yaml")} == {
        "method",
        "dataset",
        "backbone",
        "protocol",
    }


def test_a_package_outside_this_repository_is_trained_recorded_read_again_and_reported(mine, monkeypatch, capsys):
    told = csa(mine, *COMMAND.split(), *QUICK)
    assert "label_smoothing on stripes, seed 1: test accuracy in %" in told
    (path,) = mine.glob("outputs/stripes/label_smoothing/ir4-one_layer-short-uniform-s1-*/result.json")
    result = json.loads(path.read_text())
    assert result["epochs"] == 20
    assert result["split"]["counts"] == [40, 10]
    assert result["all"] > 95
    again = csa(mine, *COMMAND.split(), *QUICK)
    assert "this run is done" in again
    evaluated = csa(mine, "-m", "csa.evaluate", f"run={result['fingerprint']}")
    assert f"{result['all']:.1f}" in evaluated

    monkeypatch.chdir(mine)
    monkeypatch.syspath_prepend(mine)
    words = [word for word in COMMAND.split() if "=" in word]
    train(*words, *QUICK, "method.smoothing=0.3", "protocol.epochs=1", config_dir="mine/conf")
    capsys.readouterr()
    known, unknown = runs(config_dir="mine/conf"), runs()
    assert list(known["recipe"]) == list(unknown["recipe"]) == ["one_layer, 1 epoch", "one_layer, 20 epochs"]
    assert list(known["settings"]) == ["protocol.epochs=1 method.smoothing=0.3", ""]
    assert list(known["shortened"]) == [True, False]
    assert list(unknown["settings"]) == ["", ""]  # without the folder no defaults are known
    assert report.main(["--config-dir", "mine/conf", "dataset=stripes", "format=csv", "tracking=none"]) == 0
    line = '"stripes, ratio 4","one_layer, 1 epoch","label_smoothing, smoothing=0.3",label_smoothing,'
    assert line in capsys.readouterr().out


def test_a_mistake_in_it_is_told_like_any_other(mine):
    words = [*COMMAND.split(), "method.smoothing=2"]
    process = subprocess.run(
        [sys.executable, *words], cwd=mine, capture_output=True, text=True, timeout=300, check=False
    )
    assert process.returncode == 2
    assert "method.smoothing=2: is out of range; allowed: a number from 0 to 1" in process.stderr
