"""``python -m csa.evaluate``: a recorded model on its own test set, on other data, on a folder of images."""

from __future__ import annotations

import csv
import io
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from composed import config_of
from PIL import Image
from recorded_runs import WORDS, begin, train

from csa import evaluate
from csa.data.dataset import load_split
from csa.data.pictures import UnreadableImageError, read_image
from csa.tracking.record import Record
from csa.training.recorded import probabilities, scores_on

GROUPS = ("many", "medium", "few", "all", "balanced")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train(tmp_path_factory.mktemp("evaluate") / "outputs", "method=csa", "delta=0.1")


@pytest.fixture(scope="module")
def split(run):
    config = config_of(*WORDS)
    return load_split(config.dataset, config.data_dir, download=False)


@pytest.fixture
def call(run, tmp_path, monkeypatch, capsys):
    """The entry's standard output for words beside ``run=``, in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")

    def called(*words: str) -> str:
        fingerprint = run.folder.name.rpartition("-")[2]
        evaluate.main([f"run={fingerprint[:6]}", f"output_root={run.folder.parents[2]}", *words])
        return capsys.readouterr().out

    return called


@pytest.fixture
def refused(call, capsys):
    def called(*words: str) -> str:
        with pytest.raises(SystemExit, match="2"):
            call(*words)
        return capsys.readouterr().err

    return called


def rows(printed: str) -> dict[str, list[str]]:
    """The cells of each head's row."""
    cells = [re.split(" {2,}", line.strip()) for line in printed.splitlines()]
    return {head.removesuffix(" *"): values for head, *values in cells if head != "head" and len(values) >= len(GROUPS)}


# --- its own test set -----------------------------------------------------------------------


def test_its_own_test_set_gives_the_recorded_result_exactly(run, split):
    config = build_runtime()
    scores, _ = scores_on(run.folder, split.test_images, split.test_labels, config)
    recorded, outputs = run.result["heads"], np.load(run.folder / "test_outputs.npz")
    assert set(scores) == {"uniform", "balanced", "mean"}
    for head, values in scores.items():
        assert values.as_dict() == recorded[head]["last"]
        assert np.array_equal(values.confusion, outputs[f"confusion_{head}"])


def build_runtime():
    return config_of("runtime.device=cpu").runtime


def test_the_command_says_so(run, call):
    printed = call()
    table = rows(printed)
    for head, scores in run.result["heads"].items():
        assert table[head][: len(GROUPS)] == [f"{scores['last'][group]:.2f}" for group in GROUPS]
        assert f"{head}: as recorded" in printed.splitlines()
    assert "csa trained on digits_lt, seed 0: accuracy in % on its 200 test images" in printed
    assert list(rows(call("head=mean"))) == ["mean"]


def test_data_that_changed_since_is_refused(run, refused, tmp_path):
    other = tmp_path / "outputs" / "digits_lt" / "csa" / run.folder.name
    other.mkdir(parents=True)
    for path in run.folder.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    (other / "config.yaml").write_text((run.folder / "config.yaml").read_text().replace("enlarge: 2", "enlarge: 1"))
    told = refused(f"output_root={tmp_path / 'outputs'}")
    assert "data set 'digits_lt' is not what it was: its hash was" in told


# --- another data set -----------------------------------------------------------------------


def write_npz(path: Path, split, order=None, **more) -> None:
    """The digits as anyone's arrays; order: new place of each class."""
    order = np.arange(10) if order is None else np.array(order)
    np.savez(
        path,
        **{
            "x_train": split.train_images,
            "y_train": order[split.train_labels],
            "x_test": split.test_images,
            "y_test": order[split.test_labels],
            **more,
        },
    )


def test_the_same_images_as_another_data_set_score_the_same(run, call, split, tmp_path):
    write_npz(tmp_path / "same.npz", split)
    printed = call("dataset=npz", "dataset.path=same.npz")
    for head, scores in run.result["heads"].items():
        assert rows(printed)[head][: len(GROUPS)] == [f"{scores['last'][group]:.2f}" for group in GROUPS]
    assert "accuracy in % on 200 images of npz" in printed
    assert "by position" not in printed


def test_classes_in_another_order_are_found_by_name(run, call, split, tmp_path):
    reverse = np.arange(10)[::-1]
    write_npz(tmp_path / "reversed.npz", split, reverse, classes=np.array([str(k) for k in reverse]))
    table = rows(call("dataset=npz", "dataset.path=reversed.npz"))
    assert table["mean"][3] == f"{run.result['heads']['mean']['last']['all']:.2f}"


def test_other_names_go_by_position_and_it_says_so(run, call, split, tmp_path):
    names = ["0", "one", *map(str, range(2, 10))]
    write_npz(tmp_path / "named.npz", split, classes=np.array(names))
    printed = call("dataset=npz", "dataset.path=named.npz")
    assert rows(printed)["mean"][3] == f"{run.result['heads']['mean']['last']['all']:.2f}"
    assert "the class names differ, so classes go by position: 'one' counts as '1'" in printed


@pytest.mark.parametrize(
    ("classes", "recorded", "order", "told"),
    [
        ("aab", "aab", [0, 1, 2], ""),
        ("baa", "aab", [2, 0, 1], "several classes are called 'a'; such classes go by their order"),
        ("abb", "aab", [0, 1, 2], "the class names differ, so classes go by position: 'b' counts as 'a'"),
        (["cafe\u0301", "b"], ["b", "caf\u00e9"], [1, 0], ""),
    ],
)
def test_classes_of_one_name(classes, recorded, order, told):
    labels, note = evaluate.in_recorded_order(np.arange(len(order)), list(classes), list(recorded))
    assert (labels.tolist(), note) == (order, told)


def test_data_that_does_not_suit_the_model_is_refused_with_every_reason(refused, tmp_path):
    images, labels = np.zeros((6, 8, 9, 3), dtype=np.uint8), np.array([0, 1, 2, 0, 1, 2])
    np.savez(tmp_path / "other.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    told = refused("dataset=npz", "dataset.path=other.npz").splitlines()
    assert told[1:] == [
        "  dataset=npz: has 3 classes; allowed: the model's 10",
        "  dataset=npz: has 3 channel(s); allowed: the model's 1",
        "  dataset=npz: has images of 8x9 pixels; allowed: the model's 16x16",
    ]


# --- a folder of images ---------------------------------------------------------------------


@pytest.fixture
def pictures(split, tmp_path):
    """The first twelve test images as files, some in a folder of their own, and a hidden file."""
    folder = tmp_path / "pictures"
    (folder / "more").mkdir(parents=True)
    for number, image in enumerate(split.test_images[:12]):
        path = folder / ("more" if number >= 8 else ".") / f"{number:02}.png"
        Image.fromarray(image[..., 0]).save(path)
    (folder / ".hidden").write_text("no image")
    return folder


def predicted(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text)))


def test_a_folder_becomes_csv_with_the_recorded_predictions(run, call, pictures):
    header, *lines = predicted(call("images=pictures"))
    assert header == ["file", "predicted", *map(str, range(10))]
    assert [line[0] for line in lines] == [
        *(f"{n:02}.png" for n in range(8)),
        *(f"more/{n:02}.png" for n in range(8, 12)),
    ]
    outputs = np.load(run.folder / "test_outputs.npz")
    assert [int(line[1]) for line in lines] == outputs["predictions_balanced"][:12].tolist()
    values = np.array([[float(value) for value in line[2:]] for line in lines])
    logits = outputs["logits_balanced"][:12].astype(np.float64)
    expected = np.exp(logits - logits.max(1, keepdims=True))
    assert values == pytest.approx(expected / expected.sum(1, keepdims=True), abs=0.02)
    assert values.sum(1) == pytest.approx(np.ones(12), abs=1e-5)


def test_another_head_and_a_file(run, call, pictures, tmp_path):
    told = call("images=pictures", "head=uniform", "to=predictions.csv")
    assert told == "12 predictions are in predictions.csv\n"
    _, *lines = predicted((tmp_path / "predictions.csv").read_text())
    outputs = np.load(run.folder / "test_outputs.npz")
    assert [int(line[1]) for line in lines] == outputs["predictions_uniform"][:12].tolist()


def test_probabilities_of_any_number_of_images(run, split):
    found = probabilities(run.folder, split.test_images[:1], build_runtime())
    assert {head: values.shape for head, values in found.items()} == dict.fromkeys(found, (1, 10))


def test_images_that_cannot_be_read_are_all_named(refused, pictures):
    whole = (pictures / "00.png").read_bytes()
    (pictures / "torn.png").write_bytes(whole[: len(whole) // 2])
    (pictures / "more" / "gone.png").symlink_to("nowhere")
    told = refused("images=pictures", "to=out.csv")
    assert "2 faults" in told
    assert "images=pictures: 1 link(s) whose target is gone: more/gone.png" in told
    assert "images=pictures/torn.png: cannot be read as an image" in told
    assert not Path("out.csv").exists()


def test_linked_folders_are_read_and_what_is_left_out_is_told(pictures, tmp_path, capsys):
    (pictures / "more").rename(tmp_path / "elsewhere")
    (pictures / "more").symlink_to(tmp_path / "elsewhere")
    (pictures / "notes.txt").write_text("no image")
    files, images = evaluate.read_folder(pictures, (1, 16, 16))
    assert ([str(file) for file in files][-1], images.shape) == ("more/11.png", (12, 16, 16, 1))
    assert capsys.readouterr().err.splitlines() == [
        f"left out of {pictures}: 1 hidden: .hidden",
        f"left out of {pictures}: 1 no image(s) by name: notes.txt",
    ]


def test_columns_of_classes_of_one_name_are_told_apart():
    told = written(["crane", "file", "crane"])
    assert told == [
        ["file", "predicted", "crane", "file (2)", "crane (2)"],
        ["a.png", "crane (2)", "0.1", "0.2", "0.7"],
    ]


def written(classes: list[str], top: int = 0) -> list[list[str]]:
    stream = io.StringIO()
    evaluate.write_csv(stream, ["a.png"], np.array([[0.1, 0.2, 0.7]]), classes, top)
    return predicted(stream.getvalue())


def test_the_likeliest_classes_stand_first():
    assert written(["a", "b", "c"], 2) == [
        ["file", "predicted 1", "probability 1", "predicted 2", "probability 2"],
        ["a.png", "c", "0.7", "b", "0.2"],
    ]


@pytest.mark.parametrize(("shape", "mode"), [((3, 6, 10), "RGB"), ((1, 10, 6), "L")])
def test_an_image_covers_the_shape_and_is_cropped_in_its_centre(tmp_path, shape, mode):
    channels, height, width = shape
    wide = np.zeros((height, 3 * width), dtype=np.uint8)
    wide[:, width : 2 * width] = 200
    Image.fromarray(wide).convert("RGB").save(tmp_path / "wide.png")
    image = read_image(tmp_path / "wide.png", shape)
    assert (image.shape, image.dtype) == ((height, width, channels), np.uint8)
    assert (image == 200).all()
    with pytest.raises(UnreadableImageError, match="No such file"):
        read_image(tmp_path / "none.png", shape)


# --- refusals and answers -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            ["head=unifrm"],
            "head=unifrm: the run has no such head; did you mean 'uniform'? Allowed: uniform, balanced",
        ),
        (["images=x", "dataset=digits_lt"], "images=x: stands beside dataset=; allowed: one of the two"),
        (["to=x.csv"], "to=x.csv: only predictions on images=<folder> are written to a file"),
        (["images=x", "to=no/x.csv"], "to=no/x.csv: the folder for it does not exist"),
        (["top=3"], "top=3: only predictions on images=<folder> are listed"),
        (["images=x", "top=11"], "top=11: is out of range; allowed: an integer from 1 to 10"),
        (["images=nowhere"], "images=nowhere: there is no such folder"),
        (["images=."], "images=.: has no image in it"),
        (["run=zzz"], "run=zzz: there is no such run below"),
        (["imags=x"], "imags=x: unknown key; did you mean 'images'?"),
    ],
)
def test_mistakes(refused, words, expected):
    assert expected in refused(*words)


def test_a_run_that_is_not_done_says_how_it_stands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    begin(Path("outputs"), "aaaa00000001")
    begin(Path("outputs"), "bbbb00000002").fail({"reason": "the loss is nan\nmore"})
    for text, state in (("aa", "is interrupted;"), ("bb", "is failed (the loss is nan);")):
        with pytest.raises(SystemExit, match="2"):
            evaluate.main([f"run={text}"])
        assert state in capsys.readouterr().err


def test_a_model_that_is_gone_or_damaged_is_named(run, refused, split):
    record = Record(run.folder)
    content = record.checkpoint.read_bytes()
    try:
        record.checkpoint.write_bytes(content[:-100])
        assert "its model cannot be read" in refused()
        record.checkpoint.unlink()
        assert "has no checkpoint.pt" in refused()
    finally:
        record.checkpoint.write_bytes(content)


def test_help_is_there_at_once():
    code = (
        "import sys; from csa import evaluate\ntry: evaluate.main(['--help'])\nfinally: print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "python -m csa.evaluate run=3f2a images=folder" in done.stdout
    assert done.stdout.splitlines()[-1] == "False"
