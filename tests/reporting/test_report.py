"""``python -m csa.report`` as it is typed."""

from __future__ import annotations

import csv
import io
import subprocess
import sys

import pytest
from miniature_records import RECORDS, make, retell, write

from csa import report

FROM = ("source=records", f"records={RECORDS}")


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_report_from_records_is_the_same_every_time(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for method, shares in (("ce", (0.9, 0.4, 0.1)), ("crt", (0.8, 0.8, 0.8))):
        for seed in range(3):
            write(tmp_path / "records", "mnist_lt", method, seed, shares=shares)
    write(tmp_path / "records", "mnist_lt", "csa", 1, "variant=<b>&amp; $x_1$|y", collapsed=True)
    words = ["source=records", "records=records"]
    assert report.main(words) == 0
    shown = capsys.readouterr()
    assert "Better than CE: cRT" in shown.out
    assert shown.out.rstrip().splitlines()[-1].startswith("outputs/report/index.html: the report (")
    assert report.main([*words, "to=second"]) == 0
    first, second = contents(tmp_path / "outputs" / "report"), contents(tmp_path / "second")
    assert first == second
    kinds = {name.rpartition(".")[2] for name in first}
    assert kinds == {"md", "tex", "csv", "html", "png", "svg", "txt"}
    name = "mnist_lt_ratio_100"
    assert {f"tables/{name}.{ending}" for ending in ("md", "tex", "csv")} < first.keys()
    assert {f"tables/table{number}.tex" for number in range(1, 6)} < first.keys()
    assert {f"figures/{kind}_{name}.svg" for kind in ("forest", "per_class", "curves", "confusion")} < first.keys()
    assert {"index.html", "runs.csv", "tables.md", "tables/all.tex", "figures/figure4.png"} < first.keys()
    assert first[f"figures/curves_{name}.txt"].startswith(b"MNIST-LT, ratio 100. Test accuracy")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outputs", "records", "second"]


@pytest.mark.parametrize(
    ("words", "beginning"),
    [
        (["table=4", "format=markdown"], "## Table 4"),
        (["table=4", "format=latex"], "% needs "),
        (["table=4", "format=csv"], "table,row,"),
        (["table=4", "format=html"], "<!DOCTYPE html>"),
        (["dataset=fashion_lt", "format=markdown"], "## Fashion-LT, ratio 100"),
        (["methods=crt", "format=csv", "dataset=mnist_lt"], "data,recipe,line,method"),
    ],
)
def test_one_thing_in_one_format(tmp_path, monkeypatch, capsys, words, beginning):
    monkeypatch.chdir(tmp_path)
    assert report.main([*FROM, *words]) == 0
    assert capsys.readouterr().out.startswith(beginning)
    assert not list(tmp_path.iterdir())


def test_methods_are_compared(capsys):
    assert report.main([*FROM, "compare=crt,ce", "format=csv"]) == 0
    (line,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert (line["first"], line["second"], line["pairs"]) == ("cRT", "CE", "5")
    assert float(line["difference"]) == pytest.approx(float(line["first_mean"]) - float(line["second_mean"]), abs=1e-3)
    assert line["p"] == line["p_corrected"]
    assert line["verdict"] == "better"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["table=6"], "table=6: is not one of the choices"),
        (["figure=curve"], "figure=curve: there is no such figure; did you mean 'curves'?"),
        (["figure=4", "table=1"], "figure=4: stands beside table=; allowed: one of the two"),
        (["methods=ce,crtt"], "methods=crtt: no run of such a method is recorded; did you mean 'crt'?"),
        (["baseline=bbn"], "baseline=bbn: no run of such a method is recorded"),
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
    assert len([line for line in csv.DictReader(io.StringIO(shown.out)) if line["n"] == "1"]) == 4


def test_tables_need_no_torch(tmp_path):
    code = (
        "import sys; from csa import report; status = report.main(sys.argv[1:]); "
        "assert 'torch' not in sys.modules and 'mlflow' not in sys.modules; sys.exit(status)"
    )
    write(tmp_path, "mnist_lt", "ce", 0)
    words = ["source=records", f"records={tmp_path}", "table=1", "format=latex"]
    process = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    assert r"\begin{longtable}" in process.stdout


def test_runs_on_made_up_images_and_corrected_results_are_left_out(tmp_path, capsys):
    write(tmp_path, "mnist_lt", "ce", 0, "variant=smoke")
    path = write(tmp_path, "mnist_lt", "crt", 0)
    retell(path, {"results_version": 0}, {})
    write(tmp_path, "mnist_lt", "cbrs", 0)
    assert report.main(["source=records", f"records={tmp_path}", "format=csv"]) == 0
    shown = capsys.readouterr()
    assert [line["method"] for line in csv.DictReader(io.StringIO(shown.out))] == ["cbrs"]
    assert "note: 1 runs of smoke=true are left out" in shown.err
    assert "note: 1 runs (crt) are left out: their results were corrected since" in shown.err


def test_help_needs_neither_hydra_nor_pandas(tmp_path):
    code = (
        "import sys; from csa import report\n"
        "try: report.main(['--help'])\n"
        "finally: print(sorted({'hydra', 'pandas', 'torch', 'matplotlib'} & set(sys.modules)))"
    )
    process = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert process.stdout.startswith("What was measured: ")
    assert process.stdout.rstrip().endswith("[]")
