from __future__ import annotations

import json

import numpy as np
import pytest

from csa.data.__main__ import main


def test_json(capsys):
    main(["dataset=digits_lt", "dataset.holdout=2", "format=json"])
    told = json.loads(capsys.readouterr().out)
    assert told["counts"] == [120, 71, 43, 25, 15, 9, 5, 3, 2, 1]
    assert told["total"] == 294
    assert told["groups"] == {"many": [0, 1, 2], "medium": [3, 4, 5, 6], "few": [7, 8, 9]}
    assert told["groups_by_count"] == {"many": [0], "medium": [1, 2, 3], "few": [4, 5, 6, 7, 8, 9]}
    assert (told["name"], told["imbalance_ratio"], told["test"], told["holdout"]) == ("digits_lt", 100, 500, 20)
    assert len(told["hash"]) == 64


def test_parts_are_counted_and_what_stands_in_two_of_them_is_told(capsys, write_npz):
    images = np.arange(6, dtype=np.uint8)[:, None, None] * np.ones((8, 8), np.uint8)
    parts = {"x_train": images, "x_test": images[[4, 5]] + 9, "x_val": images[[5]]}
    labels = {"y_train": np.array([0, 0, 0, 0, 1, 1]), "y_test": np.array([0, 1]), "y_val": np.array([1])}
    parts["x_test"][1] = images[3]
    main(["dataset=npz", f"dataset.path={write_npz(**parts, **labels)}", "format=json"])
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert told["part_counts"] == {"train": [4, 2], "holdout": [0, 1], "test": [1, 1]}
    assert (told["largest_over_smallest"], told["duplicates"]) == (2, {"train, holdout": 1, "train, test": 1})
    assert "1 test image(s) are training images too: 1 (1)" in err


def test_the_table_keeps_to_80_columns_with_a_hundred_long_names(capsys, write_npz, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    names = np.array(
        [f"[bold]a rather long name of a class, number {k} of them all, and on and on" for k in range(100)]
    )
    path = write_npz(train=(120,) * 30 + (3,) * 70, classes=names)
    main(["dataset=npz", f"dataset.path={path}"])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    rows = [line for line in lines if "[bold]a rather" in line]
    assert len(rows) == 100
    assert [cell.strip() for cell in rows[29].strip("│").split("│")][2:] == ["120", "2", "▇" * 8, "many", "many"]
    assert [cell.strip() for cell in rows[99].strip("│").split("│")][2:] == ["3", "2", "▇", "few", "few"]
    assert "training images 3810" in lines
    groups = [line.replace("│", " ").split() for line in lines if line.startswith(("│ many", "│ medium", "│ few"))]
    assert groups == [
        ["many", "33", "3609", "30", "3600"],
        ["medium", "34", "102", "0", "0"],
        ["few", "33", "99", "70", "210"],
    ]


def test_faults_end_with_status_2_and_no_traceback(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["dataset=digits_lt", "dataset.holdout=50", "dataset.test_per_class=174", "format=xml"])
    assert ended.value.code == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert "format=xml" in told.err
    assert "dataset.test_per_class=174" in told.err
