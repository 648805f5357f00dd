"""The paper's values: complete, cited, and dashes where the slides have stray characters."""

from __future__ import annotations

from collections import Counter

import pytest

from csa.config.faults import UserError
from csa.reporting.published import load_published, paper_folder

TABLES = load_published(paper_folder())


def value(table: str, row: str, dataset: str, ratio: float | None, backbone: str, metric: str = "all") -> float | None:
    (found,) = [
        cell.value
        for cell in TABLES[table]
        if (cell.row, cell.metric) == (row, metric)
        and (cell.place.dataset, cell.place.imbalance_ratio, cell.place.backbone) == (dataset, ratio, backbone)
    ]
    return found


def test_every_table_has_its_cells_and_every_cell_its_source():
    assert {number: len(cells) for number, cells in TABLES.items()} == {"1": 48, "2": 108, "3": 50, "4": 8, "5": 10}
    known = {number: sum(cell.value is not None for cell in cells) for number, cells in TABLES.items()}
    assert known == {"1": 48, "2": 99, "3": 33, "4": 8, "5": 10}
    for number, cells in TABLES.items():
        assert all(cell.citation.endswith(f"Table {number}") and cell.rule == "best_on_test" for cell in cells)
        places = Counter((cell.row, cell.place, cell.metric) for cell in cells)
        assert set(places.values()) == {1}


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (("1", "CB-RS", "fashion_lt", 100, "lenet", "few"), 82.8),
        (("1", "CE", "cifar100_lt", 100, "resnet32"), 39.1),
        (("2", "CE", "cifar100_lt", 100, "resnet32"), 38.3),
        (("2", "Remix [33]", "cifar10_lt", 50, "resnet32"), None),
        (("2", "CAM-BS [13]", "cifar100_lt", 10, "resnet32"), None),
        (("2", "CMO [27]", "cifar10_lt", 100, "resnet32"), None),
        (("2", "CSA + mixup (ours)", "cifar10_lt", 10, "resnet32"), 90.8),
        (("3", "BBN [14]", "imagenet_lt", None, "resnet10"), None),
        (("3", "BBN [14]", "imagenet_lt", None, "resnet50", "few"), None),
        (("3", "FSA [28]", "imagenet_lt", None, "resnet50", "few"), None),
        (("3", "CSA† (ours)", "imagenet_lt", None, "resnet50"), 49.7),
        (("4", "Ours w/o Q", "cifar100_lt", 100, "resnet32", "many"), 65.1),
    ],
)
def test_cells_of_the_slides(cell, expected):
    assert value(*cell) == expected


def test_the_curve_of_table_5():
    assert [cell.value for cell in TABLES["5"]] == [
        45.47,
        45.37,
        45.55,
        44.83,
        45.52,
        45.59,
        45.42,
        45.08,
        45.83,
        44.93,
    ]
    assert [cell.place.words for cell in TABLES["5"]][3] == ("delta=0.3",)


def test_a_damaged_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"table1\.csv.*cannot be read"):
        load_published(tmp_path)
