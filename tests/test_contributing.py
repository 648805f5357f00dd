"""CONTRIBUTING's examples are complete: written to files as they stand, they train, resume and are read again."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from csa import report, runs, train

TEXT = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()
FILES = re.findall(r"```(?:python|yaml)\n((?:# @package \S+\n)?# (mine/\S+)\n.*?)```", TEXT, flags=re.DOTALL)
(COMMAND,) = re.findall(r"^python (-m csa\.run --config-dir .*)$", TEXT, flags=re.MULTILINE)
QUICK = ("tracking=none", "runtime.threads=1", "runtime.device=cpu")


@pytest.fixture
def mine(tmp_path):
    for content, name in FILES:
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


HOUSE = Path(__file__).parents[1] / "csa"
EVERYWHERE = ("config", "cli", "console", "metrics", "randomness", "summary")
ENTRIES = ("__init__", "run", "entry", "report", "evaluate", "export", "records", "completion", "__main__")


def room(module: Path) -> str:
    """Of ``run.py`` or ``data/loader.py``, as the picture calls it."""
    name = module.stem if len(module.parts) == 1 or module.stem == "__main__" else module.parts[0]
    return "entries" if name in ENTRIES else name


def imported(path: Path) -> set[str]:
    """Rooms that a module imports when it is imported or used; what only types need does not count."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = [ast.Pass()]
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    names = [f"{node.module}.{alias.name}" for node in nodes for alias in node.names]
    parts = [name.split(".")[1:] for name in names if name.startswith("csa.")]
    return {room(Path(*part[:2]) if (HOUSE / part[0]).is_dir() else Path(part[0])) for part in parts}


def test_the_picture_of_the_house_is_that_of_its_imports():
    (picture,) = re.findall(r"```mermaid\nflowchart TD\n(.*?)```", TEXT, flags=re.DOTALL)
    arrows = [line.split(" --> ") for line in picture.strip().splitlines()]
    drawn = {source.strip(): set(targets.split(" & ")) for source, targets in arrows}
    found: dict[str, set[str]] = {}
    for path in sorted(HOUSE.rglob("*.py")):
        here = room(path.relative_to(HOUSE))
        if path != HOUSE / "__init__.py":
            found.setdefault(here, set()).update(imported(path) - {here})
    assert found.pop("config") == set()
    for name in EVERYWHERE[1:]:
        assert found.pop(name) <= {*EVERYWHERE, "data"}, name
    assert {here: to for here, rooms in found.items() if (to := rooms - {*EVERYWHERE})} == drawn
    assert [*TopologicalSorter(drawn).static_order()][-1] == "entries"


def test_there_is_an_example_of_each():
    assert {Path(name).parent.name for _, name in FILES if name.endswith("yaml")} == {
        "method",
        "dataset",
        "backbone",
        "protocol",
        "tracking",
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

    (sync,) = re.findall(r"`python (-m csa\.records .*?)`", TEXT)
    assert csa(mine, *sync.split()) == f"{path.parent.relative_to(mine)}: 20 epochs\n"
    (line,) = (mine / "leaderboard").iterdir()
    assert line.read_text().startswith("label_smoothing stripes ir4 one_layer short uniform s1, done: ")

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
