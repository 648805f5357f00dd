"""``python -m csa.run`` as a person starts it: real processes, real exit statuses."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from shaped_tree import write_tree
from tiny_words import TINY

from csa.metrics import PARTS, calibration_bins, calibration_error

WORDS = (*TINY, "method=ce")


def csa(*words: str, cwd: Path, module: str = "csa.run") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *words], cwd=cwd, capture_output=True, text=True, timeout=300, check=False
    )


def only_run(cwd: Path) -> Path:
    (path,) = cwd.glob("outputs/*/*/*/identity.json")
    return path.parent


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    cwd = tmp_path_factory.mktemp("finished")
    # Found before the real one: the embedded data is trained on without the seconds that its import takes.
    (cwd / "torchvision.py").write_text("raise ImportError('not for the embedded data')")
    return cwd, csa(*WORDS, "method=csa", "delta=0.1", cwd=cwd)


def test_a_run_says_its_accuracies_and_where_its_record_lies(finished):
    cwd, process = finished
    assert process.returncode == 0, process.stderr
    folder = only_run(cwd)
    result = json.loads((folder / "result.json").read_text())
    for head in ("uniform", "balanced", "mean"):
        assert f"{result['heads'][head]['last']['all']:.2f}" in process.stdout
    lines = process.stdout.splitlines()
    assert lines[lines.index(f"record: {folder.relative_to(cwd)}") - 1].startswith("cut short: 2 of the recipe's 20")
    assert "next:" not in lines  # no terminal: nobody is there to type it
    assert (cwd / "outputs" / "latest").resolve() == folder
    assert folder.name == f"ir4-resnet32-digits-delta0.1-s0-{result['fingerprint']}"
    assert sorted(path.name for path in cwd.iterdir()) == ["outputs", "torchvision.py"]


def test_every_accuracy_can_be_recomputed_from_the_stored_predictions(finished):
    folder = only_run(finished[0])
    result = json.loads((folder / "result.json").read_text())
    outputs = np.load(folder / "test_outputs.npz")
    labels = outputs["labels"]
    for head, scores in result["heads"].items():
        right = outputs[f"predictions_{head}"] == labels
        last = scores["last"]
        assert last["all"] == pytest.approx(100 * right.mean())
        for name, classes in result["split"]["by_rank"].items():
            assert last[name] == pytest.approx(100 * right[np.isin(labels, classes)].mean())
        for k, accuracy in enumerate(last["per_class"]):
            assert accuracy == pytest.approx(100 * right[labels == k].mean())
        assert outputs[f"logits_{head}"].dtype == np.float16
        parts = (PARTS * outputs[f"confidence_{head}"]).astype(np.int64)
        sums = (np.bincount(calibration_bins(parts), weights=one) for one in (parts, right))
        assert last["ece"] == pytest.approx(calibration_error(*sums, len(labels)))
    mean = (outputs["logits_uniform"].astype(float) + outputs["logits_balanced"]) / 2
    # Half a float16 step between 16 and 32, once for the mean of two and once for the mean itself.
    assert abs(mean).max() < 32
    np.testing.assert_allclose(outputs["logits_mean"], mean, rtol=0, atol=2 * 2**-7)


def test_a_finished_run_is_reported_not_repeated(finished):
    cwd, _ = finished
    before = (only_run(cwd) / "result.json").stat().st_mtime_ns
    process = csa(*WORDS, "method=csa", "delta=0.1", cwd=cwd)
    assert process.returncode == 0
    assert "this run is done; rerun=true trains it again" in process.stdout
    assert (only_run(cwd) / "result.json").stat().st_mtime_ns == before


def test_another_head_and_other_groups_of_a_finished_run_are_shown_without_training(finished):
    cwd, _ = finished
    before = json.loads((only_run(cwd) / "result.json").read_text())
    asked = ("method.primary_head=mean", "dataset.groups=[1,8,1]")
    process = csa(*WORDS, "method=csa", "delta=0.1", *asked, cwd=cwd)
    assert process.returncode == 0
    assert "its head or shot groups were others; they are those asked for now" in process.stdout
    assert "mean *" in process.stdout
    assert "balanced *" not in process.stdout
    after = json.loads((only_run(cwd) / "result.json").read_text())
    assert after["head"] == "mean"
    assert after["all"] == before["heads"]["mean"]["last"]["all"]
    assert after["split"]["by_rank"] == {"many": [0], "medium": [*range(1, 9)], "few": [9]}
    for head, evaluations in after["heads"].items():
        for when, scores in evaluations.items():
            assert scores["per_class"] == before["heads"][head][when]["per_class"]
            assert [scores["many"], scores["few"]] == [scores["per_class"][0], scores["per_class"][9]]
            assert scores["medium"] == pytest.approx(np.mean(scores["per_class"][1:9]))
    assert [after["many"], after["few"]] == [after["heads"]["mean"]["last"][group] for group in ("many", "few")]
    process = csa("-m", *WORDS, "method=csa", "delta=0.1", "method.primary_head=balanced", cwd=cwd)  # a sweep asks too
    assert process.returncode == 0
    assert "1 run: 1 done" in process.stdout
    assert json.loads((only_run(cwd) / "result.json").read_text()) == before


def start_long(cwd: Path) -> subprocess.Popen[str]:
    words = [*WORDS, "protocol.epochs=3000", "runtime.checkpoint_seconds=0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "csa.run", *words], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not list(cwd.glob("outputs/*/*/*/checkpoint.pt")) and time.monotonic() < deadline:
        time.sleep(0.1)
    return process


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_saves_and_ends_with_the_status_a_scheduler_needs(tmp_path, number, status):
    process = start_long(tmp_path)
    if number == signal.SIGTERM:  # meanwhile nobody else may train it
        second = csa(*WORDS, "protocol.epochs=3000", cwd=tmp_path)
        assert second.returncode == 3
        assert f"process {process.pid} on " in second.stdout
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == status, err
    assert "the same command continues" in out
    assert not err
    folder = only_run(tmp_path)
    assert not (folder / "lease.json").exists()
    assert not (folder / "result.json").exists()


def test_a_folder_that_cannot_be_written_is_a_clear_fault(tmp_path):
    (tmp_path / "file").write_text("")
    process = csa(*WORDS, "output_root=file/outputs", cwd=tmp_path)
    assert process.returncode == 2
    assert "output_root=file/outputs" in process.stderr
    assert "Traceback" not in process.stderr


def test_a_full_disk_ends_in_one_line_and_is_continued(tmp_path):
    """A limit on the size of files stands for the disk: the checkpoint of 4 MB does not fit."""
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({2**19}, {2**19}))\n"
    (tmp_path / "small_disk.py").write_text(
        f"{limit}from csa.run import run\nfrom csa.entry import hydra_main\nhydra_main(run)\n"
    )
    process = csa(*WORDS, "protocol.epochs=1", cwd=tmp_path, module="small_disk")
    assert process.returncode == 1
    assert "File too large" in process.stdout
    assert "Traceback" not in process.stderr
    assert not list(only_run(tmp_path).glob("checkpoint.pt*"))
    assert csa(*WORDS, "protocol.epochs=1", cwd=tmp_path).returncode == 0


def test_an_image_that_cannot_be_read_stops_with_its_path_or_is_skipped_and_counted(tmp_path):
    write_tree(tmp_path / "tree", classes=3, largest=8, smallest=4, of_each=2, side=40)
    damaged = min((tmp_path / "tree" / "train").glob("*/*.JPEG"))
    damaged.write_bytes(damaged.read_bytes()[:300])
    words = ("dataset=imagenet_lt", "dataset.root=tree", "dataset.lists=tree", "dataset.groups=null", "method=ce")
    words += ("dataset.listed_images=null",)
    words += ("dataset.image_size=16", "backbone=resnet32", "protocol.epochs=1", "protocol.batch_size=4")
    words += ("runtime.device=cpu", "runtime.threads=1", "runtime.workers=1", "tracking=none")
    stopped = csa(*words, cwd=tmp_path)
    assert stopped.returncode == 1
    assert "Traceback" not in stopped.stdout + stopped.stderr
    told = " ".join(stopped.stdout.split())
    assert f"failed: {damaged.relative_to(tmp_path)} cannot be read as an image (" in told
    done = csa(*words, "dataset.unreadable=skip", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped images that cannot be read: 1; log.txt names them" in done.stdout
    (result,) = tmp_path.glob("outputs/*/*/*/result.json")
    assert json.loads(result.read_text())["unreadable_images"] == 1
    assert f"skipped {damaged.relative_to(tmp_path)}, which cannot" in result.with_name("log.txt").read_text()
