"""Tables of stored miniature records: the expected text in every format, and every number computed again."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from statistics import fmean, stdev

import numpy as np
import pytest
from miniature_records import EXPECTED, PER_CLASS, RECORDS, from_records, outputs, score, stored_runs, write
from scipy import stats

from csa.reporting.cells import View, measure
from csa.reporting.comparisons import compare_methods, compare_table
from csa.reporting.fitting import Fit, fitting
from csa.reporting.frame import printed_frame, table_frame
from csa.reporting.heads import heads_table
from csa.reporting.layout import blocks, signed, spans
from csa.reporting.published import Place, load_published, paper_folder
from csa.reporting.tables import build_tables


@pytest.fixture(scope="module")
def runs():
    return stored_runs()


@pytest.fixture(scope="module")
def rendered(runs):
    return outputs(runs)


def table_1(runs, view=None, *, reduced=False):
    published = {"1": load_published(paper_folder())["1"]}
    with fitting() as judge:
        (table,) = build_tables(published, runs, judge, view or View(), reduced=reduced)
    return table


def test_runs_under_a_papers_own_recipe_have_a_row_of_their_own(tmp_path):
    for seed in range(2):
        write(tmp_path, "cifar10_lt", "ldam_drw", seed)
        write(tmp_path, "cifar10_lt", "ldam_drw", seed, "protocol=published", shares=(0.5, 0.5, 0.5))
    published = {"2": load_published(paper_folder())["2"]}
    with fitting() as judge:
        (table,) = build_tables(published, from_records(tmp_path), judge, View())
    rows = {row.label: row for row in table.rows if any(cell and cell.measured for cell in row.cells)}
    assert [(label, row.in_paper) for label, row in rows.items()] == [
        ("LDAM-DRW [15]", True), ("LDAM-DRW [15], under cifar_ldam", False),
    ]  # fmt: skip
    plain, own = ([cell.measured for cell in row.cells if cell and cell.measured] for row in rows.values())
    assert [len(plain), len(own)] == [1, 1]
    assert plain[0].seeds == own[0].seeds == [0, 1]
    assert own[0].difference is None
    assert plain[0].last.mean > own[0].last.mean


def test_every_head_has_a_row_with_its_own_numbers(runs):
    by_head = heads_table(table_1(runs))
    assert (by_head.name, by_head.heading) == ("heads1", "Table 1 by head")
    assert {column.group for column in by_head.columns} == {"MNIST-LT"}
    assert [row.label for row in by_head.rows] == ["CSA, balanced", "CSA, mean", "CSA, uniform"]
    for row in by_head.rows:
        head = row.label.split(", ")[1]
        (same,) = [other for other in table_1(runs, View(head)).rows if other.label == "CSA"]
        assert [cell.measured for cell in row.cells] == [cell.measured for cell in same.cells if cell.measured]
        assert {cell.measured.view.head for cell in row.cells} == {head}
    first, second, _ = by_head.rows
    assert first.cells[0].measured.last != second.cells[0].measured.last


def test_methods_of_one_head_have_no_table_by_head(runs):
    assert heads_table(table_1([run for run in runs if run.method != "csa"])) is None


@pytest.mark.parametrize("ending", ["md", "tex", "csv", "html", "txt"])
def test_the_expected_output(rendered, ending):
    assert rendered[f"report.{ending}"] == (EXPECTED / f"report.{ending}").read_text()


def test_every_number_follows_from_the_recorded_predictions(rendered):
    """Read from the CSV; computed from the files of the records with numpy and scipy alone."""
    checked = 0
    lines = [line for part in rendered["report.csv"].split("\n\n") for line in csv.DictReader(io.StringIO(part))]
    for line in lines:
        if not line.get("fingerprints"):
            continue
        last, best, minutes = [], [], []
        for name in line["fingerprints"].split():
            (path,) = RECORDS.glob(f"*/*/{name}.json")
            record = json.loads(path.read_text())
            labels = np.load(RECORDS / "labels" / f"{record['labels_digest']}.npz")["labels"].astype(int)
            split = record["result"]["split"]
            offsets = np.load(path.with_suffix(".npz"))[f"offsets_{line['head']}"].astype(int)
            predicted = (labels + offsets) % len(split["classes"])
            last.append(score(labels, predicted, split)[line["metric"]])
            best.append(record["result"]["heads"][line["head"]]["best_on_test"][line["metric"]])
            minutes.append(record["result"]["seconds"] / 60)
            assert str(record["identity"]["seed"]) in line["seeds"].split()
        assert float(line["last_mean"]) == pytest.approx(fmean(last), abs=1e-4)
        assert float(line["best_mean"]) == pytest.approx(fmean(best), abs=1e-4)
        assert float(line["minutes"]) == pytest.approx(fmean(minutes), abs=1e-4)
        if len(last) > 1:
            assert float(line["last_std"]) == pytest.approx(stdev(last), abs=1e-4)
        if line["published"]:
            assert float(line["difference"]) == pytest.approx(fmean(best) - float(line["published"]), abs=1e-4)
        if len(last) > 2 and stdev(best) > 0:
            low, high = stats.t.interval(0.95, len(best) - 1, fmean(best), stats.sem(best))
            assert (float(line["interval_low"]), float(line["interval_high"])) == pytest.approx((low, high), abs=1e-3)
            if line["published"]:
                assert line["outside"] == str(not low <= float(line["published"]) <= high)
        checked += 1
    tables = 4 * 4 + 4 + 4 + 1  # four methods on MNIST-LT, a reduced one, Fashion-LT, Table 5
    assert checked == tables + 3 * (4 + 1)  # three heads of CSA on MNIST-LT and in Table 5


def test_comparisons_follow_from_the_recorded_predictions(runs):
    table = table_1(runs)
    compared = {(row.first, row.second): row for row in compare_table(table).rows if row.where == "MNIST-LT"}
    row = compared["cRT", "CE"]
    with fitting() as judge:
        place = {name: Place(name, "mnist_lt", 100.0, "lenet") for name in ("crt", "ce")}
        whole = {name: [run for run in runs if judge.fit(place[name], run) == Fit()] for name in place}
    crt, ce = (sorted(whole[name], key=lambda run: run.seed) for name in ("crt", "ce"))
    right = [[run.evidence.predictions("classifier") == run.evidence.labels for run in group] for group in (crt, ce)]
    accuracy = [[100 * float(one.mean()) for one in group] for group in right]
    expected = stats.ttest_rel(*accuracy)
    assert row.test.p == pytest.approx(expected.pvalue)
    assert tuple(row.test.interval) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    only_first = [int((a & ~b).sum()) for a, b in zip(*right, strict=True)]
    only_second = [int((b & ~a).sum()) for a, b in zip(*right, strict=True)]
    assert (row.predictions.only_first, row.predictions.only_second) == (sum(only_first), sum(only_second))
    p = [stats.binomtest(a, a + b).pvalue for a, b in zip(only_first, only_second, strict=True)]
    assert row.predictions.p == pytest.approx(min(1, 2 * float(np.median(p))))
    assert row.corrected == pytest.approx(row.test.p)  # the only pair with five seeds
    assert row.verdict == ("cRT is better" if expected.pvalue < 0.05 else "no difference shown")
    assert compared["CB-RS", "CE"].verdict == "not enough seeds (2 of 5)"
    assert compared["CSA", "CE"].seeds == (0, 1, 2)


def test_methods_are_compared_wherever_both_have_runs(runs):
    found = compare_methods(runs, ["crt", "ce"], View())
    assert [(row.where, row.first, row.second, len(row.seeds)) for row in found.rows] == [
        ("MNIST-LT, ratio 100, LeNet, 8 epochs", "crt", "ce", 5)
    ]
    variants = compare_methods(runs, ["cbrs", "ce"], View()).rows
    assert [row.first for row in variants] == ["cbrs variant=", "cbrs variant=<b>&amp; $x_1$|y"]


def test_reduced_runs_show_only_when_asked_for(runs):
    whole, shown = (table_1(runs, reduced=reduced) for reduced in (False, True))
    assert not any(measured.reduced for measured in whole.measured())
    assert {measured.reduced for measured in shown.measured()} == {"", "epochs 2 instead of 8"}
    names = [line.name for line in blocks(shown)[0].lines]
    assert "reduced a: last epoch" in names
    assert not [line.name for line in blocks(whole)[0].lines if "reduced" in line.name]


def test_marks(runs):
    frame = printed_frame(table_1(runs))
    csa = frame.loc["CSA (not in paper)"]
    assert csa.loc["paper", ("MNIST-LT", "All")] == "not in paper"
    assert csa.loc["last epoch", ("MNIST-LT", "All")].endswith("‡")
    assert csa.loc["seeds; minutes", ("MNIST-LT", "All")] == "0–2; 0.5; 1 collapsed"  # noqa: RUF001
    assert frame.loc["CB-RS"].loc["95 % interval, ±", ("MNIST-LT", "All")] == "n too small"
    assert frame.loc["cRT"].loc["last epoch", ("Fashion-LT", "All")] == "–"  # noqa: RUF001
    data = table_frame(table_1(runs))
    marked = data[data["outside"].eq(True)]
    assert {("CE", "medium"), ("CE", "few")} == set(zip(marked["row"], marked["metric"], strict=True))


def test_the_other_head_and_the_other_shot_groups(runs):
    plain, other = (table_1(runs, view) for view in (View(), View(head="balanced", by_count=True)))
    first, second = (next(row for row in table.rows if row.label == "CSA").cells for table in (plain, other))
    shown = [run.result["heads"]["balanced"]["last"]["by_count"]["many"] for run in second[1].measured.runs]
    assert second[1].measured.last.mean == pytest.approx(fmean(shown))
    every = [run.result["heads"]["balanced"]["last"]["all"] for run in second[0].measured.runs]
    assert second[0].measured.last.mean == pytest.approx(fmean(every))
    assert first[1].measured.last.mean != second[1].measured.last.mean
    ce = other.rows[0].cells[0].measured
    assert ce.last.mean == plain.rows[0].cells[0].measured.last.mean


def test_training_subsets_are_not_mixed(tmp_path, monkeypatch):
    for seed in range(2):
        write(tmp_path, "mnist_lt", "ce", seed)
    monkeypatch.setattr("miniature_records.SPLIT", "ab" * 32)
    write(tmp_path, "mnist_lt", "ce", 0)
    table = table_1(list(from_records(tmp_path)))
    assert table.rows[0].cells[0].measured.n == 2
    (note,) = table.notes
    assert note.startswith("ce on mnist_lt, ratio 100, lenet: shown are the runs on training subset 5b5b5b5b5b5b;")
    assert note.endswith("not shown: 1 on abababababab")


def test_a_group_without_classes_has_a_dash(runs):
    run = next(run for run in runs if run.dataset == "fashion_lt")
    scores = run.result["heads"]["classifier"]["last"]
    assert measure([run], "all", View(), None).last.mean == scores["all"]
    scores = {**scores, "few": None}
    changed = {**run.result, "heads": {"classifier": {**run.result["heads"]["classifier"], "last": scores}}}
    other = type(run)(run.fingerprint, run.identity, run.config, changed, run.evidence, run.origin, run.where)
    assert measure([other], "few", View(), None) is None


def test_an_empty_store_gives_the_published_values():
    frame = printed_frame(table_1([]))
    assert frame.loc["CE"].loc["paper", ("Fashion-LT", "All")] == "45.6"
    assert set(frame.loc["CE"].loc["last epoch"]) == {"–"}  # noqa: RUF001


def test_the_page_is_whole_and_asks_for_nothing(rendered):
    page = rendered["report.html"]
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", page)
    assert "@import" not in page
    assert "url(" not in page
    assert page.count("<table") == page.count("</table>") == 5
    assert "<sons>" not in page
    assert "&lt;sons&gt;" in page
    for number in ("1", "5"):
        assert f'<section id="table{number}">' in page
        assert f'href="#table{number}"' in page
    assert 'lang="en"' in page
    assert 'name="viewport"' in page
    assert 'scope="row"' in page


def test_small_texts():
    assert spans([4, 0, 1, 2]) == "0–2, 4"  # noqa: RUF001
    assert signed(-0.04, 1) == "0.0"
    assert signed(-0.05, 2) == "−0.05"  # noqa: RUF001
    assert signed(1.25, 1) == "+1.2"


def test_the_stored_records_are_those_that_the_miniature_makes(tmp_path):
    """Not only is the expected output stored: so is what it is of, and a fingerprint never changes."""
    write(tmp_path, "mnist_lt", "ce", 0, shares=(0.95, 0.6, 0.1))
    (made,) = tmp_path.glob("*/*/*.json")
    assert (RECORDS / "mnist_lt" / "ce" / made.name).exists()
    assert PER_CLASS == 4
    shutil.rmtree(tmp_path)
