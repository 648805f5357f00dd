from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from shaped_tree import write_tree

from csa.config.faults import UserError
from csa.data.__main__ import main
from csa.data.build import inspect, load_split
from csa.data.image_files import ImageFiles
from csa.data.known_hashes import split_hash
from csa.data.long_tail import groups_by_count, groups_by_rank
from csa.data.pictures import decode
from csa.data.sources.list_files import by_size, leaves_root


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
def few(dataset_config, few_files):
    return lambda **changes: dataset_config(
        "list_files", **{"root": str(few_files), "lists": str(few_files), **changes}
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
    assert len(load_split(settings(), "unused", False).holdout_labels) == 0
    split = load_split(settings(validation=True), "unused", False)
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


def test_the_hash_is_that_of_lists_files_and_sizes(settings, few, few_files, tmp_path):
    first = load_split(few(), "unused", False).hash
    assert first == load_split(few(), "unused", False).hash == split_hash(few(), "unused", False, tmp_path)
    assert len({first, load_split(few(image_size=64), "unused", False).hash}) == 2
    Image.new("RGB", (200, 300)).save(few_files / "a/0.png")
    changed = load_split(few(), "unused", False).hash
    assert changed != first
    assert split_hash(few(), "unused", False, tmp_path) == changed


@pytest.mark.parametrize(
    ("list_file", "line", "told"),
    [
        ("train.txt", "../a/0.png 0", "line 7 ('../a/0.png') leaves the root"),
        ("train.txt", "/etc/passwd 0", "line 7 ('/etc/passwd') leaves the root"),
        ("test.txt", "a/0.png", "line 4 ('a/0.png') is not a path and a label"),
        ("test.txt", "a/0.png -1", "is not a path and a label"),
        ("train.txt", "a/0.png 4", "has no image of label 3"),
        ("test.txt", "a/0.png 3", "has labels without a training image: 3; allowed: 0 to 2"),
    ],
)
def test_faults_of_lists_show_before_anything_runs(few, few_files, list_file, line, told):
    with (few_files / list_file).open("a") as stream:
        stream.write(f"{line}\n")
    (fault,) = inspect(few(), "unused", False)
    assert told in str(fault)


def test_missing_files_and_settings(few, few_files):
    (few_files / "a/2.png").unlink()
    (few_files / "a/6.png").unlink()
    with pytest.raises(UserError) as raised:
        load_split(few(), "unused", False)
    told = str(raised.value)
    assert "train.txt: names 1 file(s) that are not below" in told
    assert "test.txt: names 2 file(s)" in told
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
    words = ["dataset=list_files", f"dataset.root={few_files}", "protocol.batch_size=2"]
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
