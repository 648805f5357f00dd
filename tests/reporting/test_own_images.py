"""A folder of own images has the same tables as the paper's data sets."""

from __future__ import annotations

from miniature_records import retell, write

from csa import report


def of_own_images(record):
    own = {"name": "image_folder", "path": "pets", "profile": "natural"}
    retell(record, {"dataset": {"name": "image_folder"}}, {"dataset": own})


def test_runs_on_own_images_have_the_whole_report(tmp_path, monkeypatch, capsys):
    """Those of MNIST-LT, said to be of a folder: nothing but what was recorded tells a report what they are."""
    monkeypatch.chdir(tmp_path)
    for method, shares in (("ce", (0.9, 0.4, 0.1)), ("csa", (0.8, 0.8, 0.8)), ("balanced_softmax", (0.9, 0.5, 0.2))):
        for seed in range(3):
            of_own_images(write(tmp_path / "records", "mnist_lt", method, seed, shares=shares))
    for trial in (0.1, 0.2, 0.3):
        of_own_images(write(tmp_path / "records", "mnist_lt", "ce", 0, f"protocol.lr={trial}", "protocol.epochs=2"))
    assert report.main(["source=records", "records=records"]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("pets (image_folder); LeNet, 8 epochs\nBetter than CE: CSA (+")
    assert "paper" not in shown.out.split("\n\n")[0].replace("the paper", "")
    assert not shown.err
    files = {path.name for path in (tmp_path / "outputs" / "report").rglob("*") if path.is_file()}
    assert {"pets_image_folder.md", "pets_image_folder.tex", "pets_image_folder.csv", "index.html"} < files
    assert {
        f"{kind}_pets_image_folder.svg" for kind in ("forest", "per_class", "curves", "confusion", "counts")
    } < files
    assert not [name for name in files if name.startswith("table1")]  # nothing of it is the paper's
    trials = "pets_image_folder_other_recipes_one_run_each"  # of a search: one table together, and no figures
    assert {name for name in files if "recipe" in name} == {f"{trials}.{ending}" for ending in ("md", "tex", "csv")}
    lines = (tmp_path / "outputs" / "report" / "tables" / f"{trials}.csv").read_text().splitlines()
    assert [line.split('"')[3] for line in lines[1:]] == [f"CE, LeNet, 2 epochs (lr={lr})" for lr in (0.1, 0.2, 0.3)]
