"""The files of sweeps/: the cells of the published tables, and that each of them works."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
from plans import SMOKE, plan_of
from recorded_runs import start

from csa.config.cells import expand
from csa.config.composition import Tree

ROOT = Path(__file__).parents[2]
TABLES = ("table1", "table2", "table3", "table4", "table5")
NAMES = sorted({path.stem for path in (ROOT / "sweeps").glob("*.yaml")} - {"search", "search_csa"})
OF_A_DATA_SET = {"mnist_lt": ("100", "lenet"), "fashion_lt": ("100", "lenet"), "cifar100_lt": ("100", "resnet32"),
                 "cifar10_lt": ("100", "resnet32"), "imagenet_lt": ("", "")}  # fmt: skip
OWN_RECIPE = "protocol=published"
USUAL = ("delta", "0.8")  # published values leave out what is the default
FIRST = ("method", "dataset", "dataset.imbalance_ratio", "backbone", "seed")


def planned(name: str) -> dict[tuple[str, ...], tuple[bool, list[int]]]:
    """Method, data set, ratio, backbone and further words of each cell; whether it is blank, and its seeds."""
    tree = Tree(name)
    cells = expand(tree.compose([]).cells)
    found: dict[tuple[str, ...], tuple[bool, list[int]]] = {}
    for cell in cells:
        settings = dict(cell.settings)
        ratio, backbone = OF_A_DATA_SET[settings["dataset"]]
        key = (
            settings["method"], settings["dataset"], settings.get("dataset.imbalance_ratio", ratio),
            settings.get("backbone", backbone),
            " ".join(f"{k}={v}" for k, v in settings.items() if k not in FIRST and (k, v) != USUAL),
        )  # fmt: skip
        found.setdefault(key, (cell.blank, []))[1].append(int(settings["seed"]))
        assert found[key][0] == cell.blank
    return found


def published(name: str) -> dict[tuple[str, ...], bool]:
    """The same of the published table; whether it has no number there."""
    with (ROOT / "reports" / "paper" / f"{name}.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    found: dict[tuple[str, ...], bool] = {}
    for row in rows:
        key = tuple(row[column] for column in ("method", "dataset", "imbalance_ratio", "backbone", "words"))
        found[key] = found.get(key, True) and not row["value"]
    return found


@pytest.mark.parametrize("name", TABLES)
def test_the_published_cells_are_the_planned_ones(name):
    theirs = published(name)
    ours = {key: cell for key, cell in planned(name).items() if key[-1] != OWN_RECIPE}
    assert theirs.keys() - ours.keys() == set()
    assert ours.keys() - theirs.keys() == set()
    assert {key: blank for key, (blank, _) in ours.items()} == theirs
    assert all(seeds == [0, 1, 2] for _, seeds in ours.values())


def test_table_2_has_every_method_under_the_recipe_of_its_own_paper_too():
    """Wherever the paper has a number, and that recipe is not the data sets' own."""
    methods = {key[0] for key in planned("table2")}
    tree = Tree("config")
    own = {method for method in methods if set(recipes(tree, method)) - {"cifar", "mnist"}}
    numbers = {key for key, dash in published("table2").items() if not dash and key[0] in own}
    cells = {key: cell for key, cell in planned("table2").items() if key[-1] == OWN_RECIPE}
    assert {key[:-1] for key in cells} == {key[:-1] for key in numbers}
    assert own == methods - {"csa", "csa_mixup"}
    assert all(cell == (False, [0, 1, 2]) for cell in cells.values())


def recipes(tree, method: str) -> list[str]:
    return list(tree.compose([tree.parse(f"method={method}")]).config.method.published)


def test_what_the_data_sets_choose(tmp_path):
    """The ratios and backbones that the table files leave to the data set."""
    for dataset, expected in OF_A_DATA_SET.items():
        if dataset == "imagenet_lt":  # it is taken whole, and every cell names its backbone
            continue
        plan = plan_of(tmp_path, *SMOKE, f"dataset={dataset}", "method=ce", tiny=())
        for run in plan.runs:
            config = run.config
            assert (f"{config.dataset.imbalance_ratio:g}", config.backbone.name) == expected


def test_table_5_shares_its_cells_with_tables_2_and_4(tmp_path):
    own = {run.fingerprint: run for run in plan_of(tmp_path, *SMOKE, name="table5", tiny=()).runs}
    assert len(own) == 30
    others = [
        {run.fingerprint for run in plan_of(tmp_path, *SMOKE, *words, name=name, tiny=()).runs}
        for name, words in (("table2", ("method=csa", "dataset=cifar100_lt", "dataset.imbalance_ratio=100")),
                            ("table4", ("method.bank=true",)))
    ]  # fmt: skip
    shared = {run.config.delta for fingerprint, run in own.items() if fingerprint in others[0]}
    assert shared == {0.8}
    assert [len(own.keys() & other) for other in others] == [3, 3]


@pytest.mark.parametrize("name", NAMES)
def test_every_cell_is_planned_on_tiny_data(name, tmp_path):
    plan = plan_of(tmp_path, *SMOKE, "seed=0", name=name, tiny=())  # seeds are alike
    options = {path.relative_to(ROOT / "conf").with_suffix("").as_posix() for path in (ROOT / "conf").glob("*/*.yaml")}
    for _, option in plan.missing:
        assert option.replace("=", "/") not in options
    assert all(run.config.variant == "smoke" and run.config.protocol.epochs == 2 for run in plan.runs)
    assert plan.cells > 0


def ablations() -> list[tuple[str, ...]]:
    """What the cells of table 4 say of csa, as words."""
    tree = Tree("table4")
    cells = expand(tree.compose([]).cells)
    words = [[f"{key}={value}" for key, value in cell.settings if key not in FIRST] for cell in cells]
    return sorted({("method=csa", *sorted(of_cell)) for of_cell in words})


@pytest.mark.parametrize("words", ablations(), ids=" ".join)
def test_it_trains(words, configuration):
    result = start(configuration(*words, "backbone=lenet", "variant=smoke")).result
    assert result["status"] == "done"


def test_a_file_runs(tmp_path):
    """Two steps of some of its cells."""
    words = ["-cn", "table1", "dataset=mnist_lt", "smoke=true", "seed=0", "method=ce,csa", "hydra/launcher=basic"]
    words += ["tracking=none", "runtime.threads=1", "runtime.device=cpu", "runtime.progress=false"]
    done = subprocess.run(
        [sys.executable, "-m", "csa.run", *words], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    results = [json.loads(path.read_text()) for path in tmp_path.glob("outputs/*/*/*/result.json")]
    assert f": {len(results)} done" in done.stdout.splitlines()[-1]
    assert {result["run"]["method"] for result in results} == {"ce", "csa"}
    assert {result["run"]["dataset"] for result in results} == {"mnist_lt"}
