"""The paper's values: complete, cited, of a known epoch, and dashes where the slides have stray characters."""

from __future__ import annotations

import math

import pytest
from composed import config_of
from miniature_records import from_records, write

from csa.config.faults import UserError
from csa.reporting.frame import frame_of
from csa.reporting.paper import load_published, paper_sections, range_of

CELLS = load_published()


def cells(table: int | str, **wanted):
    found = CELLS[CELLS["table"] == str(table)]
    for name, value in wanted.items():
        found = found[found[name].isna() if value is None else found[name] == value]
    return found


def test_every_table_has_its_cells_and_every_cell_its_source():
    assert CELLS.groupby("table").size().to_dict() == {"1": 48, "2": 108, "3": 50, "4": 8, "5": 10, "modern": 290}
    published = {"1": 48, "2": 99, "3": 33, "4": 8, "5": 10, "modern": 12 + 22}
    assert CELLS.groupby("table")["value"].count().to_dict() == published
    assert all(one.citation.endswith(f"Table {one.table}") for one in CELLS.itertuples() if one.table != "modern")
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
    assert list(cells(5, settings="")["row"]) == [f"delta {config_of('dataset=cifar100_lt').delta}"]


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
    of_paper = CELLS[CELLS["table"] != "modern"]
    noted = of_paper[of_paper["note"] != ""]
    assert set(noted["rule"]) == {"best_on_validation", "other"} == set(of_paper["rule"]) - {"last", "best_on_test"}


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


def test_values_of_methods_of_today_have_a_rule_a_source_and_the_recipe_that_their_line_names():
    modern = cells("modern")
    published = modern[modern["value"].notna()]
    assert published["value"].between(20, 100).all()
    assert published["citation"].str.contains("20[0-9][0-9][;,]").all()
    assert (modern[modern["value"].isna()]["citation"] == "").all()
    for (row, method, settings), _ in modern.groupby(["row", "method", "settings"]):
        words = settings.removesuffix(" protocol.epochs=?").split()
        named = [word.partition("=")[2] for word in words if word.startswith("protocol=")]
        assert row.rpartition(", ")[2] == [*named, "cifar"][0]
        if "cifar_strong" not in named:  # its lines have the words of those of cifar
            config_of(f"method={method}", "dataset=cifar100_lt", *words)
    of_table_2 = cells(2).set_index(["method", "dataset", "imbalance_ratio", "settings"])["value"]
    for one in cells("modern", settings="", metric="all").dropna(subset="value").itertuples():
        assert one.value == of_table_2[one.method, one.dataset, one.imbalance_ratio, ""]


def test_runs_stand_in_the_line_of_their_recipe_and_beside_no_value_of_another(tmp_path):
    recorded = {
        "CSA + BCL, cifar": ("cifar100_lt", "csa", "method.loss=bcl"),
        "SADE, test-time aggregation, cifar_strong": (
            *("cifar100_lt", "sade", "protocol=cifar_strong", "method.aggregation=test_time"),
        ),
        "SADE, cifar_sade": ("cifar10_lt", "sade", "protocol=cifar_sade", "protocol.lr=0.05"),
        "GLMC, cifar_glmc": ("cifar100_lt", "glmc", "protocol=cifar_glmc"),
        "BCL, cifar_bcl": ("cifar100_lt", "bcl", "protocol=cifar_bcl"),
        "": ("cifar100_lt", "ce", "protocol.epochs=10"),  # shortened: in no line
    }
    for dataset, method, *words in recorded.values():
        write(tmp_path, dataset, method, 0, *words)
    (section,) = paper_sections(frame_of(from_records(tmp_path)), ("modern",))
    measured = section.data[section.data["n"] > 0]
    assert set(measured["row"]) == set(recorded) - {""}
    assert measured.groupby("row")["metric"].agg(len)["CSA + BCL, cifar"] == 4
    texts = {row[0].text: [cell.text for cell in row[1:]] for row in section.grid.rows}
    assert texts["GLMC, cifar_glmc"][0].startswith("\N{EN DASH} / ")
    assert texts["BCL, cifar_bcl"][0].startswith("\N{EN DASH} / ")
    assert texts["GLMC on a wider ResNet-32, cifar_glmc"][0] == "55.88"
    assert texts["BCL as published, cifar_bcl"][0] == "53.9"
    assert texts["SADE, cifar_sade"][6].startswith("83.8 / ")
    assert texts["CE, cifar"][0] == "38.3"
    told = " ".join(section.marks)
    assert "Protocol cifar_strong: 400 epochs" in told
    assert "AutoAugment and Cutout" in told
    assert "MODEL_ZOO.md" in told
