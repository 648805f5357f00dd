"""The paper's values: complete, cited, of a known epoch, and dashes where the slides have stray characters."""

from __future__ import annotations

import math

import pytest
from miniature_records import compose

from csa.config.faults import UserError
from csa.reporting.paper import _load, load_published, paper_folder, range_of

CELLS = load_published()


def cells(table: int, **wanted):
    found = CELLS[CELLS["table"] == table]
    for name, value in wanted.items():
        found = found[found[name].isna() if value is None else found[name] == value]
    return found


def test_every_table_has_its_cells_and_every_cell_its_source():
    assert CELLS.groupby("table").size().to_dict() == {1: 48, 2: 108, 3: 50, 4: 8, 5: 10}
    assert CELLS.groupby("table")["value"].count().to_dict() == {1: 48, 2: 99, 3: 33, 4: 8, 5: 10}
    assert all(one.citation.endswith(f"Table {one.table}") for one in CELLS.itertuples())
    key = ["table", "row", "method", "dataset", "imbalance_ratio", "backbone", "settings", "metric"]
    assert not CELLS.duplicated(key).any()


@pytest.mark.parametrize(
    ("table", "row", "dataset", "ratio", "backbone", "metric", "expected"),
    [
        (1, "CB-RS", "fashion_lt", 100, "lenet", "few", 82.8),
        (1, "CE", "cifar100_lt", 100, "resnet32", "all", 39.1),
        (2, "CE", "cifar100_lt", 100, "resnet32", "all", 38.3),
        (2, "Remix [33]", "cifar10_lt", 50, "resnet32", "all", None),
        (2, "CAM-BS [13]", "cifar100_lt", 10, "resnet32", "all", None),
        (2, "CMO [27]", "cifar10_lt", 100, "resnet32", "all", None),
        (2, "CSA + mixup (ours)", "cifar10_lt", 10, "resnet32", "all", 90.8),
        (3, "BBN [14]", "imagenet_lt", None, "resnet10", "all", None),
        (3, "BBN [14]", "imagenet_lt", None, "resnet50", "few", None),
        (3, "FSA [28]", "imagenet_lt", None, "resnet50", "few", None),
        (3, "CSA† (ours)", "imagenet_lt", None, "resnet50", "all", 49.7),
        (4, "Ours w/o Q", "cifar100_lt", 100, "resnet32", "many", 65.1),
    ],
)
def test_cells_of_the_slides(table, row, dataset, ratio, backbone, metric, expected):
    (value,) = cells(table, row=row, dataset=dataset, imbalance_ratio=ratio, backbone=backbone, metric=metric)["value"]
    assert math.isnan(value) if expected is None else value == expected


def test_the_curve_of_table_5():
    assert list(cells(5)["value"]) == [45.47, 45.37, 45.55, 44.83, 45.52, 45.59, 45.42, 45.08, 45.83, 44.93]
    assert list(cells(5)["settings"])[3] == "delta=0.3"
    # The threshold that a run has when nothing is said is written as nothing.
    assert list(cells(5, settings="")["row"]) == [f"delta {compose('dataset=cifar100_lt').delta}"]


def test_of_which_epoch_each_value_is():
    assert set(cells(1, dataset="mnist_lt")["rule"]) | set(cells(1, dataset="fashion_lt")["rule"]) == {"last"}
    assert set(cells(1, dataset="fashion_lt")["digits"]) == {"truncated"}
    ours = [
        *cells(1, dataset="cifar100_lt")["rule"],
        *cells(4)["rule"],
        *cells(5)["rule"],
        *cells(3, row="CSA (ours)")["rule"],
    ]
    assert set(ours) == {"best_on_test"}
    for method in ("crt", "lws", "oltr"):
        assert set(cells(3, method=method)["rule"]) == {"best_on_validation"}
        assert set(cells(2, method=method)["rule"]) <= {"best_on_test"}
    assert set(cells(2, method="m2m")["rule"]) == {"other"}
    assert set(cells(2, method="remix")["runs"]) == {5}
    assert set(cells(2, method="csa")["runs"]) == {1}
    noted = CELLS[CELLS["note"] != ""]
    assert set(noted["rule"]) == {"best_on_validation", "other"} == set(CELLS["rule"]) - {"last", "best_on_test"}


def test_the_numbers_that_are_printed_as_a_value():
    assert range_of(45.6, "truncated") == pytest.approx((45.6, 45.7))
    assert range_of(45.6, "rounded") == pytest.approx((45.55, 45.65))
    assert range_of(45.83, "rounded") == pytest.approx((45.825, 45.835))
    assert range_of(40.0, "truncated") == pytest.approx((40.0, 40.1))


def test_a_damaged_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"table1\.csv.*cannot be read"):
        load_published(tmp_path)
    text = (
        tmp_path / "table1.csv",
        "table,row,method,dataset,imbalance_ratio,backbone,words,metric,value,rule,digits,runs,note,citation\n",
    )
    text[0].write_text(f"{text[1]}1,CE,ce,mnist_lt,100,lenet,,all,65.8,first,rounded,1,,x\n")
    with pytest.raises(UserError, match=r"table1\.csv: has rule first; allowed: last, best_on_test"):
        load_published(tmp_path)


def test_values_of_modern_methods_have_a_rule_a_source_and_settings_that_there_are():
    cells = _load(paper_folder() / "modern.csv")
    assert len(cells) == 22
    assert cells["value"].between(20, 100).all()
    assert cells["citation"].str.contains("20[0-9][0-9];").all()
    for cell in cells.itertuples():
        words = (f"method={cell.method}", f"dataset={cell.dataset}", f"dataset.imbalance_ratio={cell.imbalance_ratio}")
        config = compose(*words, *cell.settings.split())
        assert config.protocol.name == cell.settings.split()[0].removeprefix("protocol=")
