"""Tables of stored miniature records: the expected text in every format, and every number computed again."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from statistics import fmean, stdev

import numpy as np
import pytest
from miniature_records import EXPECTED, PER_CLASS, RECORDS, from_records, outputs, stored_runs, write
from scipy import stats

from csa.reporting.frame import frame_of, one_head
from csa.reporting.layout import as_csv, ranges, signed, slug
from csa.reporting.paper import beside_paper, paper_sections
from csa.reporting.sections import sections, sentence
from csa.reporting.tables import compare, table


@pytest.fixture(scope="module")
def runs():
    return stored_runs()


@pytest.fixture(scope="module")
def frame(runs):
    return frame_of(runs)


@pytest.fixture(scope="module")
def cells(frame):
    return table(frame)


@pytest.fixture(scope="module")
def rendered(runs):
    return outputs(runs)


def cell(cells, data, line, recipe="LeNet, 8 epochs"):
    found = cells[(cells["data"] == data) & (cells["line"] == line) & (cells["recipe"] == recipe)]
    (one,) = found.to_dict("records")
    return one


@pytest.mark.parametrize("ending", ["md", "tex", "csv", "html", "txt"])
def test_the_expected_output(rendered, ending):
    assert rendered[f"report.{ending}"] == (EXPECTED / f"report.{ending}").read_text()


def test_the_frame_has_a_row_a_run_and_head(frame, runs):
    assert len(frame) == sum(len(run.result["heads"]) for run in runs)
    assert frame.groupby("fingerprint")["stands"].sum().eq(1).all()
    assert list(frame.columns[:3]) == ["data", "recipe", "line"]
    one = frame[frame["method"] == "csa"].iloc[0]
    scores = one["run"].result["heads"][one["head"]]
    assert one["last_few"] == scores["last"]["few"]
    assert one["best_count_many"] == scores["best_on_test"]["by_count"]["many"]
    assert one["last_balanced"] == pytest.approx(fmean(scores["last"]["per_class"]))
    assert one["best_epoch"] == scores["best_on_test"]["epoch"] + 1
    assert "run" not in as_csv(frame).splitlines()[0].split(",")


def accuracies(right: np.ndarray, labels: np.ndarray, groups: dict[str, list[int]]) -> dict[str, float]:
    per_class = np.array([100 * right[labels == k].mean() for k in range(labels.max() + 1)])
    means = {name: float(per_class[classes].mean()) for name, classes in groups.items()}
    return {"all": float(100 * right.mean()), "balanced": float(per_class.mean()), **means}


def test_every_number_follows_from_the_recorded_predictions(cells):
    """Read from the CSV; computed from the files of the records with numpy and scipy alone."""
    lines = list(csv.DictReader(io.StringIO(as_csv(cells))))
    for line in lines:
        last, best, minutes = [], [], []
        for name in line["fingerprints"].split():
            (path,) = RECORDS.glob(f"*/*/{name}.json")
            record = json.loads(path.read_text())
            labels = np.load(RECORDS / "labels" / f"{record['labels_digest']}.npz")["labels"].astype(int)
            split = record["result"]["split"]
            offsets = np.load(path.with_suffix(".npz"))[f"offsets_{line['head']}"].astype(int)
            last.append(accuracies(offsets == 0, labels, split["by_rank"]))
            best.append(record["result"]["heads"][line["head"]]["best_on_test"]["all"])
            minutes.append(record["result"]["seconds"] / 60)
            assert str(record["identity"]["seed"]) in line["seeds"].split()
        for metric in ("all", "balanced", "many", "medium", "few"):
            assert float(line[metric]) == pytest.approx(fmean(one[metric] for one in last), abs=1e-4)
        assert float(line["best"]) == pytest.approx(fmean(best), abs=1e-4)
        assert float(line["minutes"]) == pytest.approx(fmean(minutes), abs=1e-4)
        if len(last) > 2:
            values = [one["all"] for one in last]
            low, high = stats.t.interval(0.95, len(values) - 1, fmean(values), stats.sem(values))
            assert float(line["all_half"]) == pytest.approx((high - low) / 2, abs=1e-3)
            assert float(line["all_sd"]) == pytest.approx(stdev(values), abs=1e-4)
        if line["paper"]:
            measured = fmean(one["all"] for one in last) if line["rule"] == "last" else fmean(best)
            assert float(line["measured"]) == pytest.approx(measured, abs=1e-4)
            assert float(line["minus_paper"]) == pytest.approx(measured - float(line["paper"]), abs=1e-3)
    # Four methods on MNIST-LT and a variant; a shortened one; Fashion-LT; CSA with delta 0.3.
    assert len(lines) == 5 + 1 + 1 + 1


def test_differences_are_paired_by_seed(cells, frame):
    data = "MNIST-LT, ratio 100"
    crt, ce = (
        frame[(frame["data"] == data) & (frame["line"] == name) & (frame["epochs"] == 8)] for name in ("cRT", "CE")
    )
    expected = stats.ttest_rel(crt.sort_values("seed")["last_all"], ce.sort_values("seed")["last_all"])
    found = cell(cells, data, "cRT")
    assert found["p"] == pytest.approx(expected.pvalue)
    low, high = expected.confidence_interval(0.95)
    assert (found["difference"], found["difference_half"]) == pytest.approx(((low + high) / 2, (high - low) / 2))
    assert found["p_corrected"] == pytest.approx(expected.pvalue)  # the only line with five pairs
    assert found["verdict"] == "better"
    csa = cell(cells, data, "CSA")
    assert (csa["pairs"], math.isnan(csa["p"])) == (3, True)
    assert csa["verdict"] == ("not shown" if abs(csa["difference"]) <= csa["difference_half"] else "better")
    assert cell(cells, data, "CB-RS")["verdict"] == "two seeds"
    ours = cell(cells, data, "CE")
    assert (ours["is_baseline"], ours["pairs"], ours["verdict"]) == (True, 0, "")
    # Shortened runs are compared among themselves alone.
    alone = cell(cells, data, "CE", "LeNet, 2 epochs")
    assert (alone["n"], alone["shortened"], alone["paper"] == alone["paper"]) == (1, True, False)


def test_another_baseline_and_one_that_has_no_run(frame):
    cells = table(frame[frame["dataset"] == "mnist_lt"], "crt")
    whole = cells[cells["recipe"] == "LeNet, 8 epochs"]
    assert whole["line"].iloc[0] == "cRT"
    assert cell(cells, "MNIST-LT, ratio 100", "CE")["verdict"] == "worse"
    none = table(frame, "bbn")
    assert not none["is_baseline"].any()
    assert set(none["verdict"]) == {""}


def test_published_values_are_compared_at_their_own_epoch(cells, frame):
    ce = cell(cells, "MNIST-LT, ratio 100", "CE")
    assert (ce["paper"], ce["paper_table"], ce["rule"], ce["measured"]) == (65.8, "1", "last", ce["all"])
    beside = beside_paper(frame)
    fifth = beside[(beside["table"] == "5") & (beside["n"] > 0)]
    assert list(fifth["row"]) == ["delta 0.3"]
    assert fifth["measured"].iloc[0] == pytest.approx(
        cell(cells, "CIFAR-100-LT, ratio 100", "CSA, delta=0.3", "ResNet-32, 200 epochs")["best"]
    )
    first = beside[(beside["table"] == "1") & (beside["dataset"] == "mnist_lt") & (beside["row"] == "CE")]
    values = [
        run.result["heads"]["classifier"]["last"]["few"]
        for run in frame[(frame["line"] == "CE") & (frame["epochs"] == 8)]["run"]
        if run.dataset == "mnist_lt"
    ]
    half = stats.t.ppf(0.975, 4) * stdev(values) * math.sqrt(1 + 1 / 5)
    few = first[first["metric"] == "few"].iloc[0]
    assert few["outside"] == (not fmean(values) - half <= 0.1 or not fmean(values) + half >= 0.0)
    # Shortened runs, variants and other recipes are at no place of the paper.
    assert list(first["n"]) == [5, 5, 5, 5]


def test_training_subsets_are_not_mixed(tmp_path, monkeypatch):
    for seed in range(2):
        write(tmp_path, "mnist_lt", "ce", seed)
    monkeypatch.setattr("miniature_records.SPLIT", "ab" * 32)
    write(tmp_path, "mnist_lt", "ce", 0)
    frame = frame_of(from_records(tmp_path))
    cells = table(frame)
    assert dict(zip(cells["data"], cells["n"], strict=True)) == {
        "MNIST-LT, ratio 100 (subset 5b5b5b5b)": 2,
        "MNIST-LT, ratio 100 (subset abababab)": 1,
    }
    beside = beside_paper(frame)
    assert beside[beside["dataset"] == "mnist_lt"]["n"].max() == 2
    assert len({section.name for section in sections(frame)}) == 2


def test_the_other_head_and_the_other_shot_groups(frame):
    chosen = one_head(frame, "uniform", "count")
    assert len(chosen) == len(one_head(frame)) == frame["fingerprint"].nunique()
    for one in chosen.itertuples():
        scores = one.run.result["heads"][one.head]["last"]
        assert one.head == ("uniform" if one.method == "csa" else "classifier")
        assert one.last_many == scores["by_count"]["many"]


def test_a_group_without_classes_has_a_dash(tmp_path):
    path = write(tmp_path, "fashion_lt", "ce", 0)
    content = json.loads(path.read_text())
    groups = content["result"]["split"]["by_rank"]
    groups["medium"], groups["few"] = groups["medium"] + groups["few"], []
    for rule in ("last", "best_on_test"):
        content["result"]["heads"]["classifier"][rule]["few"] = None
    path.write_text(json.dumps(content))
    (section,) = sections(frame_of(from_records(tmp_path)))
    row = dict(zip(section.grid.headings, section.grid.rows[0], strict=True))
    assert row["few"].text == "–"  # noqa: RUF001
    assert row["many"].text != "–"  # noqa: RUF001


def test_methods_are_compared_wherever_both_have_runs(frame):
    (row,) = compare(frame, "crt", "ce").to_dict("records")
    assert (row["data"], row["first"], row["second"], row["pairs"]) == ("MNIST-LT, ratio 100", "cRT", "CE", 5)
    pairs = [
        [
            run.predictions("classifier") == run.labels
            for run in frame[
                (frame["line"] == name) & (frame["epochs"] == 8) & (frame["dataset"] == "mnist_lt")
            ].sort_values("seed")["run"]
        ]
        for name in ("cRT", "CE")
    ]
    only = [(int((a & ~b).sum()), int((b & ~a).sum())) for a, b in zip(*pairs, strict=True)]
    assert (row["only_first"], row["only_second"]) == tuple(map(sum, zip(*only, strict=True)))
    p = [stats.binomtest(a, a + b).pvalue for a, b in only]
    assert row["p_images"] == pytest.approx(min(1, 2 * float(np.median(p))))
    assert list(compare(frame, "cbrs", "ce")["first"]) == ["CB-RS", "CB-RS, <b>&amp; $x_1$|y"]


def test_the_sentence(cells):
    lines = cells[(cells["data"] == "MNIST-LT, ratio 100") & (cells["recipe"] == "LeNet, 8 epochs")]
    told = sentence(lines)
    assert told.startswith("Better than CE: cRT (+")
    assert "Of two seeds or one only: the highest of 2 methods, CB-RS" in told
    alone = cells[cells["data"] == "Fashion-LT, ratio 100"]
    assert sentence(alone).endswith("% right; nothing here to compare it with.")


def test_tables_are_narrow(rendered, frame):
    assert max(map(len, rendered["report.txt"].splitlines())) <= 100
    for section in sections(frame):
        widths = [
            max(len(text) for text in column)
            for column in zip(
                section.grid.headings, *([one.text for one in row] for row in section.grid.rows), strict=True
            )
        ]
        assert sum(widths[1:]) + len(widths) - 1 <= 82


def test_the_papers_layout_is_a_line_a_method(frame):
    (section,) = paper_sections(frame, ("1",))
    assert [row[0].text for row in section.grid.rows] == ["CE", "cRT", "CB-RS"]
    assert section.grid.groups[0] == ("MNIST-LT, ratio 100", 4)
    assert re.fullmatch(r"65\.8 / \d+\.\d", section.grid.rows[0][1].text)
    assert section.grid.rows[0][-4].text == "35.0"  # ImageNet-LT: nothing was run
    assert any("cut off after their last digit" in mark for mark in section.marks)


def test_an_empty_store_gives_the_published_values():
    frame = frame_of([])
    assert sections(frame) == []
    assert len(table(frame)) == 0
    (section,) = paper_sections(frame, ("5",))
    assert section.grid.rows[8][1].text == "45.83"


def test_the_page_is_whole_and_asks_for_nothing(rendered, frame):
    page = rendered["report.html"]
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", page)
    assert "@import" not in page
    assert "url(" not in page
    assert page.count("<table") == page.count("</table>") == 2 * len(sections(frame)) + 3
    assert page.index('class="verdicts"') < page.index("<table")
    assert "<sons>" not in page
    assert "&lt;sons&gt;" in page
    for section in sections(frame):
        assert f'<section id="{section.name}">' in page
        assert f'href="#{section.name}"' in page
    assert 'lang="en"' in page
    assert 'name="viewport"' in page
    assert 'scope="row"' in page


def test_small_texts():
    assert ranges([4, 0, 1, 2]) == "0–2, 4"  # noqa: RUF001
    assert signed(-0.04, 1) == "0.0"
    assert signed(-0.05, 2) == "−0.05"  # noqa: RUF001
    assert signed(1.25, 1) == "+1.2"
    assert slug("CIFAR-100-LT, ratio 100; δ") == "cifar_100_lt_ratio_100"


def test_the_stored_records_are_those_that_the_miniature_makes(tmp_path):
    """Not only is the expected output stored: so is what it is of, and a fingerprint never changes."""
    write(tmp_path, "mnist_lt", "ce", 0, shares=(0.95, 0.6, 0.1))
    (made,) = tmp_path.glob("*/*/*.json")
    assert (RECORDS / "mnist_lt" / "ce" / made.name).exists()
    assert PER_CLASS == 4
