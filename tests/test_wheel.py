"""A wheel works in an empty directory: the configuration travels inside."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from tiny_words import TINY

from csa.config.faults import EXTRAS

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A folder with the unpacked wheel, as an installer would leave it."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


def test_the_configuration_and_the_sweeps_are_inside(site):
    for tree in ("conf", "sweeps"):
        inside = {str(path.relative_to(site / "csa" / tree)) for path in (site / "csa" / tree).rglob("*.yaml")}
        assert inside == {
            str(path.relative_to(ROOT / tree))
            for path in (ROOT / tree).rglob("*.yaml")
            if "local" not in path.parts[-2:-1]
        }
        assert inside


def test_it_composes_far_from_the_checkout(site, tmp_path):
    command = [sys.executable, "-c", "import csa; print(csa.__file__)"]
    environment = {**os.environ, "PYTHONPATH": str(site)}
    where = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert where.stdout.strip() == str(site / "csa" / "__init__.py")
    process = subprocess.run(
        [sys.executable, "-m", "csa.data", "format=json"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert '"total": 294' in process.stdout
    assert not list(tmp_path.iterdir())


def test_a_training_server_needs_neither_mlflow_nor_what_reports_are_drawn_with(tmp_path):
    """The packages of the two extras are as if they were not installed."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    belongs = {re.split("[<>]", package)[0]: extra for extra in ("mlflow", "report") for package in extras[extra]}
    assert belongs == EXTRAS
    without = "import runpy, sys; sys.modules.update(dict.fromkeys(sys.argv[1].split())); sys.argv[:2] = [];"

    def start(module: str, *words: str) -> subprocess.CompletedProcess[str]:
        code = f"{without} runpy.run_module('{module}', run_name='__main__', alter_sys=True)"
        command = [sys.executable, "-c", code, " ".join(EXTRAS), module, *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    words = (*TINY, "method=ce")
    asked = start("csa.run", *words, "tracking=mlflow")
    assert asked.returncode == 2
    assert "  tracking=mlflow: is not installed; allowed: pip install 'csa[mlflow]', or tracking=none\n" in asked.stderr
    run = start("csa.run", *words)
    assert run.returncode == 0, run.stderr
    report = start("csa.report")
    assert report.returncode == 2
    assert "  pandas: is not installed; allowed: pip install 'csa[report]'\n" in report.stderr
