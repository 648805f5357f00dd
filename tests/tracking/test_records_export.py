"""Exported records: complete, small, the same bytes every time, and nothing of the machine in them."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded_runs import begin, finish, named, train

from csa import records
from csa.config.faults import RecordError, UserError
from csa.tracking import exported
from csa.tracking.exported import ExportedRun, export, exported_paths
from csa.tracking.files import read_json, write_json
from csa.tracking.run import Run

FIRST, SECOND, THIRD = named("aa"), named("bb"), named("cc")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished csa run: three heads."""
    return train(tmp_path_factory.mktemp("export") / "outputs", "method=csa", "delta=0.1")


def read(path: Path) -> ExportedRun:
    return ExportedRun(path).checked()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- completeness ---------------------------------------------------------------------------


def test_every_accuracy_can_be_recomputed(run, tmp_path):
    path, outcome = export(run, tmp_path)
    assert outcome == "written"
    (record,) = map(read, exported_paths(tmp_path))
    assert record.path == path == tmp_path / "digits_lt" / "csa" / f"{record.fingerprint}.json"
    assert record.result == run.result
    assert record.identity == read_json(run.folder / "identity.json")["identity"]
    outputs, split = np.load(run.folder / "test_outputs.npz"), record.result["split"]
    assert np.array_equal(record.labels, outputs["labels"])
    groups = {"all": range(10), "balanced": range(10), **split["by_rank"]}
    for head, scores in record.result["heads"].items():
        predictions = record.predictions(head)
        assert np.array_equal(predictions, outputs[f"predictions_{head}"])
        correct = predictions == record.labels
        for name, classes in groups.items():
            assert (
                100 * int(correct[np.isin(record.labels, classes)].sum()) / int(np.isin(record.labels, classes).sum())
                == scores["last"][name]
            ), (head, name)
        for k, accuracy in enumerate(scores["last"]["per_class"]):
            assert 100 * int(correct[record.labels == k].sum()) / 20 == accuracy
    with pytest.raises(KeyError, match="tail"):
        record.predictions("tail")
    assert record.rescored() == run.rescored()
    for part in (record.logits, record.confidence):
        with pytest.raises(UserError, match="which keeps predictions alone; allowed: a run folder"):
            part("uniform")


def test_metrics_lines_are_there_to_six_digits(run, tmp_path):
    record = read(export(run, tmp_path).path)
    lines = run.metrics()
    assert len(lines) == 2
    for line, said in zip(lines, record.metrics(), strict=True):
        assert said.keys() == line.keys()
        assert said["loss"] == pytest.approx(line["loss"], rel=1e-5)
        assert said["heads"]["uniform"]["all"] == pytest.approx(line["heads"]["uniform"]["all"], rel=1e-5)
        assert (said["epoch"], said["stage"], said["images"]) == (line["epoch"], line["stage"], line["images"])


@given(classes=st.integers(2, 700), data=st.data())
@settings(max_examples=25, deadline=None)
def test_any_predictions_come_back(tmp_path_factory, classes, data):
    folder = tmp_path_factory.mktemp("any")
    drawn = data.draw(st.lists(st.integers(0, classes - 1), min_size=1, max_size=50))
    predictions = np.array(drawn)
    run = finish(begin(folder / "outputs", FIRST), predictions, classes)
    record = read(export(run, folder / "to").path)
    assert record.predictions("only").tolist() == drawn
    assert record.labels.tolist() == [k % classes for k in range(len(drawn))]


def test_ten_thousand_predictions_are_a_few_kilobytes(tmp_path):
    generator = np.random.default_rng(0)
    labels = np.arange(10_000) % 100
    guesses = np.where(generator.random(10_000) < 0.4, labels, generator.integers(0, 100, 10_000))
    path = export(finish(begin(tmp_path / "outputs", FIRST), guesses, 100), tmp_path / "to").path
    assert path.with_suffix(".npz").stat().st_size < 8_000
    assert path.stat().st_size < 8_000


# --- the same bytes, nothing of the machine -------------------------------------------------


def test_the_same_record_gives_the_same_bytes_anywhere_and_any_time(run, tmp_path, monkeypatch):
    export(run, tmp_path / "one")
    moved = tmp_path / "moved" / "digits_lt" / "csa" / run.folder.name
    shutil.copytree(run.folder, moved)
    monkeypatch.setattr(time, "time", lambda: 2e9)
    monkeypatch.setattr(time, "localtime", lambda *_: time.gmtime(2e9))
    export(type(run)(moved), tmp_path / "two")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_exporting_again_changes_nothing(run, tmp_path):
    export(run, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert export(run, tmp_path).outcome == "unchanged"
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_nothing_of_the_machine_or_its_user_is_exported(run, tmp_path):
    export(finish(begin(tmp_path / "outputs", FIRST)), tmp_path / "to")
    export(run, tmp_path / "to")
    every = b"".join(contents(tmp_path / "to").values())
    for private in (b"someone", b"secret", b"/home", str(tmp_path.parent).encode(), b"uri"):
        assert private not in every, private
    config = read(tmp_path / "to" / "dots_lt" / "ce" / f"{FIRST}.json").config
    assert config["dataset"]["path"] == "dots.npz"
    assert set(config) == {"dataset", "sampler", "method", "backbone", "protocol", "delta", "seed", "variant"}


def test_the_text_has_a_line_a_key_and_sorted_keys(tmp_path):
    path = export(finish(begin(tmp_path / "outputs", FIRST)), tmp_path).path
    lines = path.read_text().splitlines()
    assert '  "all": 75.0,' in lines
    assert '   "classes": ["class 0", "class 1", "class 2", "class 3"],' in lines
    assert list(json.loads(path.read_text())) == sorted(json.loads(path.read_text()))
    assert path.read_text().endswith("}\n")


# --- merging --------------------------------------------------------------------------------


def test_labels_are_kept_once_for_a_test_set(tmp_path):
    for fingerprint in (FIRST, SECOND):
        export(finish(begin(tmp_path / "outputs", fingerprint)), tmp_path / "to")
    assert len(list((tmp_path / "to" / "labels").iterdir())) == 1
    first, second = map(read, exported_paths(tmp_path / "to"))
    assert first.labels is second.labels
    assert first.labels.tolist() == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="read-only"):
        first.labels[0] = 1


def test_a_record_that_is_there_stays_unless_told_otherwise(tmp_path):
    run = finish(begin(tmp_path / "outputs", FIRST))
    path = export(run, tmp_path / "to").path
    finish(run, np.array([0, 1, 2, 3]))
    assert export(run, tmp_path / "to").outcome == "kept"
    assert read(path).result["all"] == 75.0
    assert export(run, tmp_path / "to", replace=True).outcome == "written"
    assert read(path).result["all"] == 100.0
    assert read(path).predictions("only").tolist() == [0, 1, 2, 3]


def test_a_gpu_and_a_processor_leave_two_results_of_one_run(tmp_path):
    run = finish(begin(tmp_path / "outputs", FIRST))
    on_processor = export(run, tmp_path / "to")
    finish(run, np.array([0, 1, 2, 3]), device="cuda")
    on_gpu = export(run, tmp_path / "to")
    assert (on_gpu.outcome, on_gpu.path.name) == ("written", f"{FIRST}-cuda.json")
    assert exported_paths(tmp_path / "to") == [on_gpu.path, on_processor.path]
    found = [read(path) for path in (on_gpu.path, on_processor.path)]
    assert [(one.fingerprint, one.result["all"]) for one in found] == [(FIRST, 100.0), (FIRST, 75.0)]


@pytest.mark.parametrize("damage", ["old schema", "cut text", "flipped array", "empty array", "lost labels"])
def test_an_old_or_damaged_record_is_replaced(tmp_path, damage):
    run = finish(begin(tmp_path / "outputs", FIRST))
    path = export(run, tmp_path / "to").path
    whole = contents(tmp_path / "to")
    exported._labels.cache_clear()
    if damage == "old schema":
        write_json(path, {**read_json(path), "schema": 0})
    elif damage == "cut text":
        path.write_bytes(path.read_bytes()[:100])
    elif damage == "flipped array":
        path.with_suffix(".npz").write_bytes(path.with_suffix(".npz").read_bytes()[:60])
    elif damage == "empty array":
        path.with_suffix(".npz").write_bytes(b"")
    else:
        shutil.rmtree(tmp_path / "to" / "labels")
    assert export(run, tmp_path / "to").outcome == "written"
    assert contents(tmp_path / "to") == whole


# --- what is wrong with a record ------------------------------------------------------------


def test_other_labels_than_the_record_was_made_with_are_noticed(tmp_path):
    path = export(finish(begin(tmp_path / "outputs", FIRST)), tmp_path).path
    (labels,) = (tmp_path / "labels").iterdir()
    np.savez(labels, labels=np.array([3, 2, 1, 0], dtype=np.uint8))
    with pytest.raises(RecordError, match="does not hold the labels that its name stands for"):
        read(path)


def test_other_accuracies_than_those_of_the_predictions_are_noticed(tmp_path):
    run = finish(begin(tmp_path / "outputs", FIRST))
    path = export(run, tmp_path).path
    content = read_json(path)
    content["result"]["heads"]["only"]["last"]["all"] = 80.0
    write_json(path, content)
    with pytest.raises(RecordError) as raised:
        read(path)
    told = "cannot be read (ValueError: head 'only': 80.0 % recorded, 75.0 % predicted)"
    assert raised.value.faults[0].problem == told
    assert export(run, tmp_path).outcome == "written"
    assert read(path).result["all"] == 75.0


def test_a_record_of_schema_1_is_scored_anew_and_stays_as_it_is(tmp_path):
    """Groups were shares of right images, and there was neither ``balanced`` nor macro F1 nor G-mean."""
    run = finish(begin(tmp_path / "outputs", FIRST), np.array([0, 1, 2, 2, 0, 0]))
    path = export(run, tmp_path / "to").path
    content = read_json(path)
    for scores in (content["result"], content["result"]["heads"]["only"]["last"]):
        for name in ("balanced", "macro_f1", "g_mean"):
            del scores[name]
        scores["few"] = 66.6
    write_json(path, {**content, "schema": 1, "result": {**content["result"], "schema": 1}})
    assert read(path).result == run.result
    assert read_json(path)["schema"] == 1
    assert export(run, tmp_path / "to").outcome == "kept"


def test_a_record_that_does_not_hold_together_is_not_exported(tmp_path):
    run = finish(begin(tmp_path / "outputs", FIRST))
    write_json(run.folder / "result.json", json.loads(json.dumps(run.result).replace("75.0", "80.0")))
    with pytest.raises(RecordError, match=r"head 'only': 80.0 % recorded, 75.0 % predicted"):
        export(Run(run.folder), tmp_path / "to")
    (finish(run).folder / "test_outputs.npz").write_bytes(b"PK torn")
    with pytest.raises(RecordError, match=r"test_outputs\.npz: cannot be read \(ValueError"):
        export(run, tmp_path / "to")
    assert not (tmp_path / "to").exists()


# --- the command ----------------------------------------------------------------------------


def test_the_command_exports_what_is_done_and_says_what_became_of_the_rest(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = finish(begin(Path("outputs"), FIRST))
    begin(Path("outputs"), SECOND)
    torn = finish(begin(Path("outputs"), THIRD))
    (torn.folder / "test_outputs.npz").unlink()
    assert records.main(["mode=export"]) == 1
    told = capsys.readouterr()
    assert told.out == "reports/records: 1 written, 1 left out because they are not done\n"
    assert told.err.startswith(f"left out: record={torn.folder}/test_outputs.npz: cannot be read (FileNotFoundError")
    assert [path.name for path in Path("reports/records/dots_lt/ce").iterdir() if path.suffix == ".json"] == [
        f"{FIRST}.json"
    ]
    finish(run, np.array([0, 1, 2, 3]))
    assert records.main(["mode=export", "run=aa"]) == 0
    assert "1 kept although the run here differs (replace=true takes it)" in capsys.readouterr().out
    assert records.main(["mode=export", "run=aa", "replace=true", "to=elsewhere"]) == 0
    assert capsys.readouterr().out == "elsewhere: 1 written\n"
    assert records.main(["mode=export", "run=bb"]) == 0
    assert capsys.readouterr().out == "reports/records: 1 left out because they are not done\n"


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    finish(begin(Path("outputs"), FIRST))
    Path("taken").write_text("")
    with pytest.raises(SystemExit, match="2"):
        records.main(["mode=export", "to=taken"])
    assert "to=taken: cannot be written (Not a directory)" in capsys.readouterr().err
