"""A wheel works in an empty directory: the configuration travels inside."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

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
