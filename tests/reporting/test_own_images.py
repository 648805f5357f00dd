"""A folder of own images has the same tables as the paper's data sets."""

from __future__ import annotations

from miniature_records import retell, write

from csa import report


def test_runs_on_own_images_have_the_whole_report(tmp_path, monkeypatch, capsys):
    """Those of MNIST-LT, said to be of a folder: nothing but what was recorded tells a report what they are."""
    monkeypatch.chdir(tmp_path)
    for method, shares in (("ce", (0.9, 0.4, 0.1)), ("csa", (0.8, 0.8, 0.8)), ("balanced_softmax", (0.9, 0.5, 0.2))):
        for seed in range(3):
            path = write(tmp_path / "records", "mnist_lt", method, seed, shares=shares)
            own = {"name": "image_folder", "path": "pets", "profile": "natural"}
            retell(path, {"dataset": {"name": "image_folder"}}, {"dataset": own})
    assert report.main(["source=records", "records=records"]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("pets (image_folder)\nBetter than CE: CSA (+")
    assert "paper" not in shown.out.split("\n\n")[0].replace("the paper", "")
    assert not shown.err
    files = {path.name for path in (tmp_path / "outputs" / "report").rglob("*") if path.is_file()}
    assert {"pets_image_folder.md", "pets_image_folder.tex", "pets_image_folder.csv", "index.html"} < files
    assert {
        f"{kind}_pets_image_folder.svg" for kind in ("forest", "per_class", "curves", "confusion", "counts")
    } < files
    assert not [name for name in files if name.startswith("table1")]  # nothing of it is the paper's
