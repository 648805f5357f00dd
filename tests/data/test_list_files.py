from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from shaped_tree import write_tree

from csa.config.faults import UserError
from csa.data import cache_folder
from csa.data.__main__ import main
from csa.data.dataset import inspect, load_split, preview
from csa.data.image_files import ImageFiles
from csa.data.long_tail import groups_by_count, groups_by_rank
from csa.data.pictures import decode
from csa.data.sources.list_files import by_size, leaves_root
from csa.sweep.splits import split_hash


@pytest.fixture(scope="module")
def shaped(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shaped")
    write_tree(folder, classes=6, largest=40, smallest=2, of_each=2, side=48)
    return folder


@pytest.fixture
def settings(dataset_config, shaped, tmp_path):
    def make(root=shaped, **changes):
        values = {"lists": str(root), "cache_dir": str(tmp_path / "cache"), "image_size": 16, "groups": [2, 2, 2]}
        lists = {f"{part}_list": f"ImageNet_LT_{part}.txt" for part in ("train", "val", "test")}
        return dataset_config("list_files", root=str(root), **{**values, **lists, **changes})

    return make


@pytest.fixture
def few_files(tmp_path):
    """Three classes of 3, 2 and 1 training images, which a test may spoil."""
    folder = tmp_path / "few"
    (folder / "a").mkdir(parents=True)
    names = [f"a/{k}.png" for k in range(8)]
    for k, name in enumerate(names):
        Image.new("RGB", (20, 30), (30 * k, 0, 0)).save(folder / name)
    train = zip(names, [1, 2, 1, 0, 2, 1], strict=False)
    (folder / "train.txt").write_text("".join(f"{name} {label}\n" for name, label in train))
    (folder / "test.txt").write_text("a/6.png 0\na/7.png 1\na/6.png 2\n")
    return folder


@pytest.fixture
def few(dataset_config, few_files, tmp_path):
    return lambda **changes: dataset_config(
        "list_files", **{"root": str(few_files), "cache_dir": str(tmp_path / "cache"), **changes}
    )


def test_classes_are_numbered_by_size_in_every_part(settings, shaped):
    split = load_split(settings(), "unused", False)
    assert split.counts == (40, 22, 12, 7, 4, 2)
    assert (split.by_rank.many, split.by_rank.few) == ((0, 1), (4, 5))
    assert split.image_shape == (3, 16, 16)
    assert isinstance(split.train_images, ImageFiles)
    for images, labels in ((split.train_images, split.train_labels), (split.holdout_images, split.holdout_labels)):
        for name, label in zip(images.names.tolist(), labels.tolist(), strict=True):
            assert name.split("/")[1] == split.classes[label]
    by_name = dict(line.split() for line in (shaped / "ImageNet_LT_test.txt").read_text().splitlines())
    wanted = {10_000_000 + 137 * int(label): int(label) for label in by_name.values()}
    for name, label in zip(split.test_images.names.tolist(), split.test_labels.tolist(), strict=True):
        assert wanted[int(split.classes[label][1:])] == int(by_name[name])


def test_validation_images_come_from_their_list(settings):
    assert len(load_split(settings(validation=False), "unused", False).holdout_labels) == 0
    assert preview(settings(), "unused").validation
    assert not preview(settings(val_list=None), "unused").validation
    split = load_split(settings(), "unused", False)
    assert np.bincount(split.holdout_labels).tolist() == [2] * 6


def test_equal_classes_keep_the_order_of_the_lists():
    labels = np.repeat(np.arange(5), [2, 7, 2, 7, 1])
    assert by_size(labels).tolist() == [1, 3, 0, 2, 4]


def test_imagenet_lt_s_groups_by_both_rules():
    """1280 to 5 images (BASELINES 1.3): 390/445/165 by rank; by count many > 100, few < 20."""
    counts = [1280] + [200] * 384 + [60] * 479 + [10] * 136
    by_rank, by_count = groups_by_rank(counts, [390, 445, 165]), groups_by_count(counts)
    assert (len(by_rank.many), len(by_rank.medium), len(by_rank.few)) == (390, 445, 165)
    assert (len(by_count.many), len(by_count.medium), len(by_count.few)) == (385, 479, 136)


def test_the_hash_is_that_of_lists_and_contents(few, few_files, tmp_path):
    first = load_split(few(), "unused", False).hash
    assert first == load_split(few(), "unused", False).hash == split_hash(few(), "unused", False, tmp_path)
    assert first != load_split(few(image_size=64), "unused", False).hash
    image, status = few_files / "a/0.png", (few_files / "a/0.png").stat()
    pixels = bytearray(image.read_bytes())
    pixels[-20] ^= 1
    image.write_bytes(pixels)
    os.utime(image, ns=(status.st_atime_ns, status.st_mtime_ns))  # the same length and time of change
    changed = load_split(few(), "unused", False).hash
    assert changed != first
    assert split_hash(few(), "unused", False, tmp_path) == changed


def test_or_of_lists_and_lengths(few, few_files, tmp_path):
    config = few(identified_by="sizes")
    first = load_split(config, "unused", False).hash
    (few_files / "a/0.png").write_bytes(bytes((few_files / "a/0.png").stat().st_size))
    assert load_split(config, "unused", False).hash == first
    (few_files / "a/0.png").write_bytes(b"x")
    assert load_split(config, "unused", False).hash != first
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(("decoded_once", "digest"), [(False, "b9d6d4caf438359c"), (True, "0568d95d55cb99b0")])
def test_the_digest_by_lengths_is_that_of_earlier_versions(decoded_once, digest):
    names, stamps = np.array(["a/0.png", "b/1.png"]), np.array([[123, 4, 5, 6], [45, 6, 7, 8]])
    files = ImageFiles(Path("/r"), names, stamps, 16, 18, False, False, decoded_once, Path("c"))
    assert files.digest().hex()[:16] == digest
    assert files.decoded_file("train") != replace(files, stamps=stamps + 1).decoded_file("train")


def test_contents_are_read_once_and_where_nothing_can_be_remembered_again(few, tmp_path, monkeypatch):
    config, read = few(), []
    plain = cache_folder._hash
    monkeypatch.setattr(cache_folder, "_hash", lambda path: read.append(path.name) or plain(path))
    every = [f"{k}.png" for k in range(8)]

    def hashes_of(settled):
        monkeypatch.setattr(cache_folder, "SETTLED_NS", settled)
        read.clear()
        value = load_split(config, "unused", False).hash
        return value, sorted(read)

    first, _ = hashes_of(10**12)
    assert hashes_of(0) == (first, every)  # what was changed a moment ago is not remembered
    assert hashes_of(0) == (first, [])
    (memory,) = (tmp_path / "cache").glob("content-*.json")
    memory.write_text('{"a/0.png": 3')
    assert hashes_of(0) == (first, every)
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "cache").write_text("no folder")
    assert hashes_of(0) == (first, every)


@pytest.mark.parametrize(
    ("list_file", "line", "told"),
    [
        ("train.txt", "../a/0.png 0", "line 7 ('../a/0.png 0') leaves the root"),
        ("train.txt", "/etc/passwd 0", "line 7 ('/etc/passwd 0') leaves the root"),
        ("test.txt", "a/0.png", "line 4 ('a/0.png') is not a path and a label"),
        ("test.txt", "a/0.png -1", "line 4 ('a/0.png -1') is not a path and a label: '-1' is no number of a class"),
        ("test.txt", "a/0.png 1.0", "'1.0' is no number of a class"),
        ("test.txt", "a/0.png,1", "is not a path and a label"),
        ("train.txt", "a/0.png 10000000000000000000", "'10000000000000000000' is no number of a class"),
        ("train.txt", "a/0.png \u0664", "is no number of a class"),
        ("train.txt", "a/\x000.png 0", "has a control character in its path"),
        ("train.txt", "a/0.png 4", "has no image of label 3, but of labels up to 4"),
        ("train.txt", "a/0.png 900000000000000000", "has no image of label 3, but of labels up to 900000000000000000"),
        ("test.txt", "a/0.png 3", "has labels without a training image: 3; allowed: 0 to 2"),
    ],
)
def test_faults_of_lists_show_before_anything_runs(few, few_files, list_file, line, told):
    with (few_files / list_file).open("a") as stream:
        stream.write(f"{line}\n")
    (fault,) = inspect(few(), "unused", False)
    assert told in str(fault)


@pytest.mark.parametrize(
    ("encoding", "end", "line"),
    [
        ("utf-8-sig", "\n", "{} {}"),
        ("utf-16", "\r\n", "{}\t{}"),
        ("utf-8", "\r\n\r\n", "{}  {} "),
        ("utf-8", "\r", '"{}" {}'),
        ("utf-8", "\n# a comment\n", "'{}'\t {}"),
    ],
)
def test_lists_of_every_make_say_the_same(few, few_files, encoding, end, line):
    wanted = load_split(few(), "unused", False)
    (few_files / "a/1.png").rename(few_files / "a/two  words\u2026.png")
    for name in ("train.txt", "test.txt"):
        rows = (
            row.split()
            for row in (few_files / name).read_text().replace("a/1.png", "a/two__words\u2026.png").splitlines()
        )
        told = end.join(line.format(path.replace("__", "  "), label) for path, label in rows)
        (few_files / name).write_bytes((told + end).encode(encoding))
    split = load_split(few(), "unused", False)
    assert split.train_labels.tolist() == wanted.train_labels.tolist()
    assert split.train_images.names.tolist() == [
        name.replace("a/1.png", "a/two  words\u2026.png") for name in wanted.train_images.names.tolist()
    ]


def test_a_list_that_is_no_text(few, few_files):
    (few_files / "test.txt").write_bytes("caf\u00e9.png 0\n".encode("latin-1"))
    (few_files / "train.txt").unlink()
    (few_files / "train.txt").mkdir()
    assert "is not a file" in str(inspect(few(), "unused", False)[0])
    (fault,) = inspect(few(train_list="test.txt"), "unused", False)[:1]
    assert "test.txt: is no text in UTF-8 (invalid continuation byte at byte 3)" in str(fault)


def test_files_are_found_in_another_unicode_form(few, few_files):
    (few_files / "a/0.png").rename(few_files / "a/cafe\u0301.png")
    text = (few_files / "train.txt").read_text()
    (few_files / "train.txt").write_text(text.replace("a/0.png", "a/caf\u00e9.png"))
    assert "a/cafe\u0301.png" in load_split(few(), "unused", False).train_images.names.tolist()


def test_images_that_are_named_twice_or_trained_and_tested_on_are_told(few, few_files):
    with (few_files / "train.txt").open("a") as stream:
        stream.write("a/0.png 1\n./a/1.png 0\na/6.png 0\n")
    (few_files / "test.txt").write_text("a/6.png 0\na/6.png 2\n")
    train, test, untested, seen = load_split(few(), "unused", False).notes
    assert (
        train
        == f"{few_files}/train.txt names 2 image(s) more than once, 1 of them with different labels: a/0.png, a/1.png"
    )
    assert test == f"{few_files}/test.txt names 1 image(s) more than once, 1 of them with different labels: a/6.png"
    assert untested == f"{few_files}/test.txt has no image of 1 class(es), by label 1"
    assert seen == f"{few_files}/test.txt has 1 image(s) of train.txt: a/6.png"


def test_missing_files_and_settings(few, few_files):
    (few_files / "a/2.png").unlink()
    (few_files / "a/6.png").unlink()
    with pytest.raises(UserError) as raised:
        load_split(few(), "unused", False)
    told = str(raised.value)
    assert "train.txt: names 1 file(s) that are not below" in told
    assert "test.txt: names 2 file(s)" in told
    (few_files / "a/2.png").mkdir()
    (few_files / "a/6.png").symlink_to("nowhere")
    with pytest.raises(
        UserError, match=r"1 file\(s\) that are none below.*: a/2.png\n.*that are links to nothing below"
    ):
        load_split(few(), "unused", False)
    keys = [fault.key for fault in inspect(few(root="nowhere", lists="none", mean=None, std=None), "unused", False)]
    assert keys == ["dataset.root", "dataset.mean", "dataset.train_list", "dataset.test_list"]


@given(st.lists(st.sampled_from(["..", ".", "a", "b.jpg"]), min_size=1, max_size=6))
def test_only_paths_that_stay_inside_are_taken(parts):
    depth, inside = 0, True
    for part in parts:
        depth += {"..": -1, ".": 0}.get(part, 1)
        inside = inside and depth >= 0
    assert leaves_root("/".join(parts)) == (not inside)


def test_the_check_decodes_every_file(few_files, capsys):
    words = ["dataset=list_files", f"dataset.root={few_files}", f"output_root={few_files}", "protocol.batch_size=2"]
    main([*words, "format=json"])
    assert json.loads(capsys.readouterr().out)["counts"] == [3, 2, 1]
    whole = (few_files / "a/1.png").read_bytes()
    (few_files / "a/1.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SystemExit):
        main(words)
    told = capsys.readouterr().err
    assert "csa: 1 fault;" in told
    assert "dataset (train)=a/1.png: cannot be read as an image (" in told
    main([*words, "check=lists", "format=json"])
    capsys.readouterr()
    main([*words, "dataset.unreadable=skip", "format=json"])
    assert "skipped: dataset (train)=a/1.png" in capsys.readouterr().err
    for name in ("a/4.png", "a/6.png", "a/7.png"):  # with a/1.png all of class 2, and all that is tested
        (few_files / name).write_bytes(b"")
    with pytest.raises(SystemExit):
        main([*words, "dataset.unreadable=skip"])
    assert capsys.readouterr().err.splitlines()[-3:] == [
        "csa: 2 faults; nothing was run or written",
        "  dataset (train)=2: has no training image that can be read",
        "  dataset=test: has no image that can be read",
    ]


def test_pictures_of_every_kind_are_upright_rgb(shaped):
    kinds = set()
    for path in sorted(shaped.glob("train/*/*.JPEG")):
        with Image.open(path) as opened:
            orientation, mode, size = opened.getexif().get(0x0112, 1), opened.mode, opened.size
        picture = decode(path)
        kinds |= {mode, orientation}
        assert picture.mode == "RGB"
        assert picture.size == (size[::-1] if orientation == 6 else size)
    assert kinds == {"RGB", "L", "CMYK", 1, 3, 6}
