"""``python -m csa.export``: a recorded model as one file, its card, and probabilities at a temperature."""

from __future__ import annotations

import csv
import json
import shutil
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from recorded_runs import train

from csa import evaluate, export
from csa.config.recorded import read_recorded
from csa.data.dataset import load_split
from csa.training.recorded import CONTRACT, opened


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    words = ("method=csa", "delta=0.1", "backbone=lenet", "protocol.precision=fp32", "dataset.holdout=2")
    return train(tmp_path_factory.mktemp("export") / "outputs", *words)


@pytest.fixture(scope="module")
def images(run):
    """The test images as files have them, uint8 [N, 16, 16, 1]."""
    return load_split(read_recorded(run.folder / "config.yaml").dataset, "data", download=False).test_images


@pytest.fixture
def call(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda *words: export.main(
        [f"run={run.result['fingerprint']}", f"output_root={run.folder.parents[2]}", *words]
    )


def contract_of(content: bytes, form: str) -> dict:
    """What the file says of itself."""
    if form == "pt2":
        files = {CONTRACT: ""}
        torch.export.load(BytesIO(content), extra_files=files)
        return dict(json.loads(files[CONTRACT]))
    from onnxruntime import InferenceSession

    metadata = InferenceSession(content, providers=["CPUExecutionProvider"]).get_modelmeta().custom_metadata_map
    return dict(json.loads(metadata[CONTRACT]))


def as_batch(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


@pytest.mark.parametrize("form", export.FORMATS)
def test_the_file_answers_as_the_run_did_and_says_what_it_is(form, run, images, call, tmp_path, capsys):
    if form == "onnx":
        pytest.importorskip("onnxruntime")
    call(f"to=model.{form}", "head=mean")
    told = f"model.{form}: head mean; 200 of 200 test images are classified as recorded"
    assert capsys.readouterr().out.splitlines() == [told, f"model.{form}.md: its model card"]
    content = (tmp_path / f"model.{form}").read_bytes()
    outputs = np.load(run.folder / "test_outputs.npz")
    logits = torch.cat([opened(content, form)(as_batch(images[:1])), opened(content, form)(as_batch(images[1:]))])
    assert np.array_equal(logits.argmax(1), outputs["predictions_mean"])
    assert logits.numpy() == pytest.approx(outputs["logits_mean"].astype(np.float32), abs=1e-2)
    says = contract_of(content, form)
    assert says["classes"] == [str(k) for k in range(10)]
    assert says["input"]["images"]["shape"] == ["batch", 1, 16, 16]
    assert says["temperature"] == run.result["heads"]["mean"]["holdout"]["temperature"]
    card = (tmp_path / f"model.{form}.md").read_text()
    last = run.result["heads"]["mean"]["last"]
    groups = [f"{last[name]:.2f}" for name in ("all", "balanced", "many", "medium", "few")]
    assert f"| Test images, last epoch | 200 | {' | '.join(groups)} |" in card
    assert f"| {last['ece']:.2f} |\n| Validation images | 20 |" in card
    assert f"| many, by rank | 3 | 40 to 29 | {last['many']:.2f} |" in card
    assert "\n  imbalance_ratio: 4.0\n" in card
    assert run.result["fingerprint"] in card


def test_other_answers_than_the_recorded_ones_are_a_fault_and_nothing_is_written(run, call, tmp_path, capsys):
    other = tmp_path / "outputs" / "digits_lt" / "csa" / run.folder.name
    shutil.copytree(run.folder, other)
    arrays = dict(np.load(run.folder / "test_outputs.npz"))
    arrays["predictions_uniform"][:1] += 1
    np.savez(other / "test_outputs.npz", **arrays)
    with pytest.raises(SystemExit, match="2"):
        call("to=model.pt2", "head=uniform", f"output_root={tmp_path / 'outputs'}")
    told = "the exported model classifies 199 of 200 test images as recorded; allowed: at least 99.9 %"
    assert told in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["outputs"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "to: must be given; allowed: a file, as model.pt2 or model.onnx"),
        (["to=model.bin"], "to=model.bin: has another ending than its format; allowed: .pt2 or .onnx"),
        (["to=model.pt2", "format=onnx"], "to=model.pt2: has another ending than its format; allowed: .onnx"),
        (["to=no/model.pt2", "head=meen"], "to=no/model.pt2: the folder for it does not exist"),
        (["to=no/model.pt2", "head=meen"], "head=meen: the run has no such head; did you mean 'mean'?"),
        (["to=model.pt2", "method=ce"], "method=ce: unknown key"),
    ],
)
def test_mistakes(call, capsys, words, expected):
    with pytest.raises(SystemExit, match="2"):
        call(*words)
    assert expected in capsys.readouterr().err


def test_the_likeliest_classes_of_a_folder_at_the_temperature_of_the_validation_images(
    run, images, tmp_path, monkeypatch, capsys
):
    (tmp_path / "pictures").mkdir()
    Image.fromarray(images[0, ..., 0]).save(tmp_path / "pictures" / "0.png")
    monkeypatch.chdir(tmp_path)
    words = [f"run={run.result['fingerprint']}", f"output_root={run.folder.parents[2]}", "images=pictures", "top=3"]
    evaluate.main([*words, "runtime.device=cpu"])
    told = capsys.readouterr()
    temperature = run.result["heads"]["balanced"]["holdout"]["temperature"]
    assert told.err == f"probabilities of head balanced, at temperature {temperature:.3g} of its validation images\n"
    header, (file, *found) = csv.reader(told.out.splitlines())
    assert (file, header[:3]) == ("0.png", ["file", "predicted 1", "probability 1"])
    logits = np.load(run.folder / "test_outputs.npz")["logits_balanced"][0].astype(np.float64) / temperature
    expected = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    order = np.argsort(-expected)[:3]
    assert found[::2] == [str(k) for k in order]
    assert [float(value) for value in found[1::2]] == pytest.approx(expected[order], abs=0.02)
