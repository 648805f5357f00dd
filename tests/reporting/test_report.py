"""``python -m csa.report`` as it is typed."""

from __future__ import annotations

import csv
import io
import subprocess
import sys

import pytest
from miniature_records import RECORDS, make, write

from csa import report

FROM = ("source=records", f"records={RECORDS}")


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_report_from_records_is_the_same_every_time(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert report.main([*FROM, "to=first"]) == 0
    shown = capsys.readouterr()
    assert "not enough seeds (2 of 5)" in shown.out
    assert shown.err.startswith("note: of 21 runs 2 stand in no table: ")  # one is shortened, one has a label
    assert report.main([*FROM, "to=second"]) == 0
    first, second = contents(tmp_path / "first"), contents(tmp_path / "second")
    assert first == second
    kinds = {name.rpartition(".")[2] for name in first}
    assert kinds == {"md", "tex", "csv", "html", "png", "svg"}
    assert {f"tables/table{number}.tex" for number in range(1, 6)} < first.keys()
    assert {"figures/figure4.svg", "figures/curves.png", "tables/heads1.md", "tables/comparisons1.md"} < first.keys()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "second"]


@pytest.mark.parametrize(
    ("form", "beginning"),
    [("markdown", "## Table 4. "), ("latex", "% needs "), ("csv", "table,row,"), ("html", "<!DOCTYPE html>")],
)
def test_one_table_in_one_format(capsys, form, beginning):
    assert report.main([*FROM, "table=4", f"format={form}"]) == 0
    assert capsys.readouterr().out.startswith(beginning)


def test_methods_are_compared(capsys):
    assert report.main([*FROM, "compare=crt,ce", "format=csv"]) == 0
    (line,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert (line["first"], line["second"], line["n"]) == ("crt", "ce", "5")
    assert float(line["difference"]) == pytest.approx(float(line["first_mean"]) - float(line["second_mean"]), abs=1e-3)
    assert line["p"] == line["p_corrected"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["table=6"], "table=6: is not one of the choices"),
        (["figure=curve"], "figure=curve: there is no such figure; did you mean 'curves'?"),
        (["figure=4", "table=1"], "figure=4: stands beside table=; allowed: one of the two"),
        (["figure=4", "format=latex"], "format=latex: is not used by figure="),
        (["compare=ce"], "compare=ce: needs methods to compare"),
        (["compare=ce,cta"], "compare=cta: no run of such a method is recorded"),
        (["formt=latex"], "did you mean 'format'?"),
        (["source=mlflow", "tracking=none"], "there is no MLflow store here"),
        (["source=mlflow", "tracking.uri=sqlite:///nowhere.db"], "cannot be reached: there is no file nowhere.db"),
        (["figure=delta", "dataset=digits_lt"], "no recorded run on digits_lt can be shown in it"),
        (["figure=3"], "figure=3: is drawn from networks, which no record has; allowed: source=runs"),
        (["figure=2", "dataset=fashion_lt"], "records/points has no points of ce, cbrs with seed 0 on fashion_lt"),
        (["figure=2", "methods=cee"], "methods=cee: no run of such a method is recorded; did you mean 'ce'?"),
        (["figure=3", "source=runs"], "no run of it on cifar100_lt with seed 0 has a checkpoint here"),
        (["figure=reliability"], "no recorded run can be shown in it; allowed: run folders, whose logits"),
    ],
)
def test_mistakes(tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        report.main([*(FROM if "source" not in "".join(words) else ()), *words])
    assert end.value.code == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_empty_store_is_said_and_the_published_values_are_shown(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert report.main(["table=5", "format=markdown"]) == 0
    shown = capsys.readouterr()
    assert shown.err.startswith("note: no finished run is recorded (outputs, reports/records, MLflow)")
    assert "45.83" in shown.out
    assert "No run of it is recorded: the published values only." in shown.out


def test_a_record_that_is_left_out_changes_the_status(tmp_path, capsys):
    write(tmp_path, "mnist_lt", "ce", 0).write_text("{")
    assert report.main(["source=records", f"records={tmp_path}", "table=1", "format=csv"]) == 1
    assert "left out: record=" in capsys.readouterr().err


def test_a_store_that_is_away_leaves_the_other_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "outputs", "mnist_lt", "ce", 0)
    (tmp_path / "mlflow.db").write_text("this is no database")
    assert report.main(["table=1", "format=csv"]) == 0
    shown = capsys.readouterr()
    assert "cannot be reached" in shown.err
    assert "runs that only MLflow has are missing" in shown.err
    assert len([line for line in csv.DictReader(io.StringIO(shown.out.split("\n\n")[0])) if line["n"] == "1"]) == 4


def test_tables_need_no_torch(tmp_path):
    code = (
        "import sys; from csa import report; status = report.main(sys.argv[1:]); "
        "assert 'torch' not in sys.modules and 'mlflow' not in sys.modules; sys.exit(status)"
    )
    words = [*FROM, "table=1", "format=latex"]
    process = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    assert r"\begin{longtable}" in process.stdout


def test_help_needs_neither_hydra_nor_pandas(tmp_path):
    code = (
        "import sys; from csa import report\n"
        "try: report.main(['--help'])\n"
        "finally: print(sorted({'hydra', 'pandas', 'torch', 'matplotlib'} & set(sys.modules)))"
    )
    process = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert process.stdout.startswith("The paper's tables and figures")
    assert process.stdout.rstrip().endswith("[]")
