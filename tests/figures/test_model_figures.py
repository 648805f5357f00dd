"""Figures of networks and images, on two small real runs."""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import pytest
import torch
from composed import config_of
from recorded_runs import train
from small_network import SMALL_RESNET

from csa import report
from csa.config.faults import UserError
from csa.data.dataset import load_split
from csa.figures import networks as models
from csa.figures import representation
from csa.figures.drawing import Wish, from_models
from csa.figures.networks import first_of_classes, model_runs
from csa.figures.representation import drawn_from_points, keep
from csa.methods.background_mask import background_mask
from csa.reporting.frame import frame_of, one_head
from csa.tracking.exported import export
from csa.tracking.finding import from_folders
from csa.tracking.record import Record
from csa.training.recorded import recorded_split


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder, few = (
        tmp_path_factory.mktemp("networks") / "outputs",
        ("dataset.max_per_class=16", "dataset.test_per_class=8"),
    )
    train(folder, "method=csa", SMALL_RESNET, "delta=0", *few)
    train(folder, "method=ce", "backbone=lenet", *few)
    train(folder, "method=cbrs", *few)
    return folder


@pytest.fixture(scope="module")
def loaded(root):
    runs = list(from_folders(root))
    return {method: models.load_models(chosen(runs, (method,), 0))[0] for method in ("csa", "ce")}


def chosen(runs, methods, seed):
    return model_runs(one_head(frame_of(runs)), "digits_lt", methods, seed)


@pytest.fixture(scope="module")
def split(loaded):
    return recorded_split(loaded["csa"].run, "data", download=False)


def test_features_are_those_that_the_classifier_reads(loaded, split):
    found = models.features(loaded["ce"], split.test_images)
    assert found.shape == (len(split.test_images), 2)
    logits = loaded["ce"].method.head(torch.from_numpy(found))
    recorded = loaded["ce"].run.predictions("classifier")
    assert np.array_equal(logits.argmax(1).numpy(), recorded)
    assert models.features(loaded["csa"], split.test_images[:3]).shape == (3, 64)


def test_the_class_map_is_the_one_that_the_mask_is_made_of(loaded, split, monkeypatch):
    """Of CSA's own code path, which has a closed form on this backbone, and reads the uniform head."""
    csa = loaded["csa"]
    monkeypatch.setattr(csa.method, "primary_head", "uniform")
    pixels, labels = split.test_images[:6], split.test_labels[:6]
    cam, certain = models.class_maps(csa, pixels, labels)
    images = models.as_images(pixels)
    with torch.no_grad():
        _, class_map = csa.method.fit(csa.backbone.feature_map(images), torch.from_numpy(labels))
        mask = background_mask(class_map, images.shape[2:])[:, 0].numpy()
        probability = csa.method.logits(images)["uniform"].softmax(1).gather(1, torch.from_numpy(labels)[:, None])
    assert np.allclose((1 - cam) ** 2, mask, atol=1e-4)
    assert np.allclose(certain, probability[:, 0].numpy(), atol=1e-6)
    assert "feature_map" not in vars(csa.backbone)


@pytest.mark.parametrize(
    ("figure", "words"),
    [("11", ("methods=csa,cbrs",)), ("contexts", ())],  # those with points are drawn below
)
def test_figures_on_demand(root, tmp_path, capsys, figure, words):
    command = [
        f"figure={figure}",
        "dataset=digits_lt",
        *words,
        f"output_root={root}",
        "tracking=none",
        f"to={tmp_path}",
    ]
    assert report.main([*command, "source=runs"]) == 0
    name = f"figure{figure}" if figure.isdigit() else figure
    assert (tmp_path / f"{name}_digits_lt.png").read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in (tmp_path / f"{name}_digits_lt.svg").read_bytes()
    assert "seed 0" in capsys.readouterr().out


@pytest.fixture(scope="module")
def picture(root):
    """Draws a figure of one method, once."""
    frame = frame_of(from_folders(root))
    return cache(
        lambda figure, method: from_models(Wish(figure, "digits_lt", (method,)), config_of("dataset=digits_lt"), frame)
    )


@pytest.fixture
def kept(picture, tmp_path):
    """Keeps the points of a figure of one method in ``records``: where, and what is said of it."""

    def keep_points(figure, method):
        path = tmp_path / "records" / "points" / f"figure{figure}_digits_lt.npz"
        return path, keep(picture(figure, method), tmp_path / "records")

    return keep_points


def exported_run(root, records, method):
    (run,) = [run for run in from_folders(root) if run.method == method]
    export(Record(run.folder), records)
    return run


def again(records, runs):
    return list(drawn_from_points(records, frame_of(runs)))


@pytest.mark.parametrize(("figure", "method"), [("2", "ce"), ("10", "csa")])
def test_points_of_exported_runs_give_the_same_figure_without_networks(root, picture, kept, tmp_path, figure, method):
    assert kept(figure, method)[1] == ""
    assert not (tmp_path / "records").exists()  # the run is not exported: nothing is kept of it
    run = exported_run(root, tmp_path / "records", method)
    path, said = kept(figure, method)
    assert said.startswith(f"{path}: from it the report draws")
    (drawn,) = again(tmp_path / "records", [run])
    assert set(drawn.files) == {"png", "svg"}
    assert drawn.files == picture(figure, method).files
    assert f"{run.fingerprint} (seed 0)." in drawn.caption
    assert drawn.fingerprints == (run.fingerprint,)


def test_a_figure_of_networks_is_drawn_from_records_where_its_points_are_kept(root, kept, tmp_path, capsys):
    records = tmp_path / "records"
    for method in ("ce", "csa"):
        exported_run(root, records, method)
    words = ["figure=2", "dataset=digits_lt", "methods=ce", f"records={records}"]
    assert report.main([*words, f"output_root={root}", "tracking=none", f"to={tmp_path}", "source=runs"]) == 0
    path = records / "points" / "figure2_digits_lt.npz"
    assert f"{path}: from it the report draws" in capsys.readouterr().out
    words += ["source=records", f"to={tmp_path}/again"]
    assert report.main(words) == 0
    picture = "figure2_digits_lt.png"
    assert (tmp_path / "again" / picture).read_bytes() == (tmp_path / picture).read_bytes()
    for more, said in (
        (["seed=1"], "has no points of ce with seed 1 on digits_lt"),
        (["methods=csa"], "has no points of csa with seed 0 on digits_lt"),
        (["dataset.imbalance_ratio=50"], "has no points of ce with seed 0 on digits_lt, ratio 50"),
    ):
        with pytest.raises(SystemExit):
            report.main([word for word in words if word.partition("=")[0] + "=" not in " ".join(more)] + more)
        assert f"figure=2: {records / 'points'} {said}" in capsys.readouterr().err
    path.write_bytes(b"text")
    with pytest.raises(SystemExit):
        report.main(words)
    assert f"{path}: cannot be drawn" in capsys.readouterr().err


def test_points_name_the_settings_of_their_runs(root, kept, tmp_path):
    run = exported_run(root, tmp_path / "records", "cbrs")
    kept("2", "cbrs")
    (drawn,) = again(tmp_path / "records", [run])
    assert f" {run.fingerprint}: dataset.max_per_class=16 " in drawn.caption
    (why,) = again(tmp_path / "records", [])
    assert why.endswith(f"figure2_digits_lt.npz: the record of {run.fingerprint} is not there")


def test_points_of_other_runs_stay(root, kept, tmp_path):
    for method in ("ce", "cbrs"):
        exported_run(root, tmp_path / "records", method)
    content = kept("2", "ce")[0].read_bytes()
    path, said = kept("2", "cbrs")
    assert path.read_bytes() == content
    assert said.startswith(f"{path} is of other runs and stays")
    path.write_bytes(content[:-50])
    kept("2", "cbrs")
    assert path.read_bytes() != content  # what cannot be read is replaced


def test_a_network_that_gives_every_image_the_same_feature_is_told(picture, monkeypatch):
    monkeypatch.setattr(representation, "features", lambda _, pixels: np.ones((len(pixels), 64), dtype=np.float32))
    with pytest.raises(UserError, match="methods=csa: its network gives every image the same feature"):
        picture("2", "csa")  # t-SNE would end the process


def test_points_that_cannot_be_kept_are_told(root, kept, tmp_path):
    exported_run(root, tmp_path / "records", "ce")
    (tmp_path / "records" / "points").write_text("a file where the folder should be")
    path, said = kept("2", "ce")
    assert said == f"{path} cannot be written (File exists): the figure's points are not kept"


def test_damaged_points_leave_their_figure_out(root, kept, tmp_path):
    run = exported_run(root, tmp_path / "records", "ce")
    path, _ = kept("2", "ce")
    with np.load(path) as file:
        arrays = dict(file)
    about = json.loads(arrays["about"].tobytes())
    whole = path.read_bytes()

    def said(**changed):
        text = {"about": np.frombuffer(json.dumps(about | changed.pop("about", {})).encode(), dtype=np.uint8)}
        np.savez(path, **arrays | text | changed)
        return again(tmp_path / "records", [run])

    for content in (b"", b"text", whole[:-50]):
        path.write_bytes(content)
        (why,) = again(tmp_path / "records", [run])
        assert why.startswith(f"{path}: cannot be drawn (")
    assert "schema 2, this version reads 1" in said(about={"schema": 2})[0]
    assert "not a finite pair" in said(points_0=arrays["points_0"][:-1])[0]
    assert "not a finite pair" in said(points_0=arrays["points_0"] * np.nan)[0]
    for wrong in ({"fingerprints": 3}, {"classes": [99]}, {"rows": []}, {"rows": [["only one"]]}):
        (why,) = said(about=wrong)
        assert "cannot be drawn" in why


def test_counts_of_a_data_set_need_no_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert report.main(["figure=counts", "dataset=digits_lt", f"to={tmp_path}", "tracking=none"]) == 0
    assert (tmp_path / "counts_digits_lt.svg").exists()


def test_a_network_without_a_context_bank_is_told(root, tmp_path, capsys):
    words = ["figure=contexts", "dataset=digits_lt", "methods=ce", f"output_root={root}", "source=runs"]
    with pytest.raises(SystemExit):
        report.main([*words, f"to={tmp_path}"])
    assert "it has no context bank" in capsys.readouterr().err


def test_data_that_has_changed_is_told(loaded, monkeypatch):
    changed = load_split(loaded["csa"].config.dataset, "data", download=False)
    monkeypatch.setattr(
        "csa.training.recorded.load_split", lambda *_, **__: type(changed)(**{**vars(changed), "hash": "0" * 64})
    )
    with pytest.raises(UserError, match="is not what it was"):
        recorded_split(loaded["csa"].run, "data", download=False)


def test_a_method_without_a_run_is_named_with_what_there_is(loaded):
    runs = [model.run for model in loaded.values()]
    with pytest.raises(UserError, match="methods=crt: no run of it on digits_lt with seed 0") as error:
        chosen(runs, ("ce", "crt"), 0)
    assert len(error.value.faults) == 1
    with pytest.raises(UserError, match="allowed: seed=0"):
        chosen(runs, ("ce",), 7)


def test_one_test_image_of_classes_over_all_ranks(split):
    labels = split.test_labels[first_of_classes(split)]
    assert labels.tolist() == [0, 2, 4, 5, 7, 9]
