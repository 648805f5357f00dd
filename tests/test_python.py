"""csa in Python: what ``import csa`` gives, and the notebook of the examples."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_words import TINY

import csa
from csa.config.faults import UserError

NOTEBOOK = Path(__file__).parents[1] / "examples" / "digits.ipynb"


def test_the_notebook_runs(tmp_path, monkeypatch):
    """Its cells, one after the other in an empty folder, and what a reader would look at."""
    import matplotlib as mpl

    mpl.use("agg")
    monkeypatch.chdir(tmp_path)
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    found: dict[str, object] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            source = "".join(cell["source"]).replace("protocol.epochs=6", "protocol.epochs=2")
            exec(compile(source, str(NOTEBOOK), "exec"), found)
    frame, table, run = found["frame"], found["table"], found["run"]
    assert dict(zip(table["line"], table["n"], strict=True)) == {"CE": 3, "cRT": 3, "CSA": 3}
    assert table["line"].iloc[0] == "CE"
    assert found["probabilities"].shape == (5, 10)
    assert found["probabilities"].sum(1) == pytest.approx(np.ones(5), abs=1e-5)
    # What was recorded comes out again.
    confusion = run.confusion()
    assert 100 * np.trace(confusion.to_numpy()) / confusion.to_numpy().sum() == run.result["all"]
    again = csa.load(run.fingerprint[:8], "outputs")
    assert (again.fingerprint, again.folder) == (run.fingerprint, run.folder)
    assert frame[frame["fingerprint"] == run.fingerprint]["last_all"].tolist() == [
        scores["last"]["all"] for scores in run.result["heads"].values()
    ]
    network = run.model()
    assert network(__import__("torch").zeros(2, 1, 16, 16)).shape == (2, 10)
    with pytest.raises(UserError, match=r"images=uint8 \[5, 8, 8, 1\]: do not suit the model; allowed: uint8 \[N, 16"):
        run.predict(np.zeros((5, 8, 8, 1), dtype=np.uint8))
    with pytest.raises(UserError, match="head=unifrm: the run has no such head; did you mean 'uniform'"):
        run.confusion("unifrm")
    assert "csa on digits_lt, seed 2" in repr(run)


def test_mistakes_are_those_of_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        csa.train(*TINY, "method=cas", "delta=1.3")
    assert len(error.value.faults) == 2
    with pytest.raises(UserError, match="seed=0,1: has several values"):
        csa.train(*TINY, "seed=0,1")
    with pytest.raises(UserError, match="run=abc: there is no such finished run"):
        csa.load("abc")
    assert csa.runs().empty
    assert not list(tmp_path.iterdir())


def test_nothing_heavy_is_imported_until_it_is_needed(tmp_path):
    code = (
        "import sys, csa; assert {'runs', 'train', 'load', 'table', 'compare', 'Run'} <= set(dir(csa)); "
        "light = not {'torch', 'pandas', 'hydra'} & set(sys.modules); csa.table(csa.runs()); "
        "print(light, 'torch' in sys.modules, 'mlflow' in sys.modules)"
    )
    process = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert process.stdout.split() == ["True", "False", "False"]
    assert (Path(csa.__file__).parent / "py.typed").exists()
