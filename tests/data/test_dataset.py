from __future__ import annotations

import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest

from csa.config.faults import UserError
from csa.data.dataset import content_hash, inspect, load_split, measure, preview, subset_faults
from csa.data.sources import Preview
from csa.sweep.splits import split_hash


def test_the_default_data_set(dataset_config, tmp_path):
    config = dataset_config("digits_lt")
    assert not inspect(config, tmp_path, download=False)
    split = load_split(config, tmp_path, download=False)
    assert split.counts == (120, 71, 43, 25, 15, 9, 5, 3, 2, 1)
    assert sum(split.counts) == len(split.train_labels) == 294
    assert split.train_labels.tolist() == np.repeat(np.arange(10), split.counts).tolist()
    assert split.image_shape == (1, 16, 16)
    assert (split.mean, split.std) == ((0.5,), (0.5,))
    assert (split.by_rank.many, split.by_rank.few) == ((0, 1, 2), (7, 8, 9))
    assert (split.by_count.many, split.by_count.few) == ((0,), (4, 5, 6, 7, 8, 9))
    assert split.holdout_images.shape == (0, 16, 16, 1)


def test_the_content_hash_is_stable_and_sees_every_part(dataset_config, tmp_path):
    config = dataset_config("digits_lt")
    plain = load_split(config, tmp_path, False).hash
    assert plain == load_split(config, tmp_path, False).hash
    assert int(plain, 16) >= 0
    assert len(plain) == 64
    changes = ({"split_seed": 1}, {"imbalance_ratio": 5}, {"holdout": 1}, {"test_per_class": 40}, {"enlarge": 1})
    hashes = {load_split(dataset_config("digits_lt", **change), tmp_path, False).hash for change in changes}
    assert len(hashes | {plain}) == 6
    assert load_split(dataset_config("digits_lt", mean=[0.1], groups=None), tmp_path, False).hash == plain


def test_the_content_hash_by_hand():
    images, labels = np.arange(8, dtype=np.uint8).reshape(2, 2, 2, 1), np.array([0, 1])
    text = b"|u1(2, 2, 2, 1)" + bytes(range(8)) + b"<i8(2,)" + labels.astype("<i8").tobytes() + b"('a', 'b')"
    assert content_hash((images, labels), ("a", "b")) == hashlib.sha256(text).hexdigest()


def test_a_holdout_is_apart_from_training_and_test(dataset_config, tmp_path):
    split = load_split(dataset_config("digits_lt", holdout=3), tmp_path, False)
    assert split.holdout_labels.tolist() == np.repeat(np.arange(10), 3).tolist()
    assert split.hash != load_split(dataset_config("digits_lt"), tmp_path, False).hash
    seen = {image.tobytes() for images in (split.train_images, split.test_images) for image in images}
    assert sum(image.tobytes() in seen for image in split.holdout_images) == 0
    with pytest.raises(UserError) as caught:
        load_split(dataset_config("digits_lt", holdout=9), tmp_path, False)
    (fault,) = caught.value.faults
    assert (fault.key, fault.value) == ("dataset.holdout", 9)
    assert "class 0 leaves 8 of 128" in str(fault)
    assert "at most 8" in fault.allowed


def test_statistics_are_measured_on_the_training_subset(dataset_config, write_npz, tmp_path):
    config = dataset_config("npz", path=str(write_npz()))
    split = load_split(config, tmp_path, False)
    pixels = split.train_images / 255
    np.testing.assert_allclose(split.mean, pixels.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(split.std, pixels.std((0, 1, 2)), rtol=1e-12)
    assert measure(np.full((2, 3, 3, 1), 51, np.uint8)) == ((0.2,), (1.0,))


def test_all_faults_of_a_subset_at_once(dataset_config):
    config = dataset_config("cifar10_lt", groups=[3, 4], holdout=20, mean=[0.5], std=[0.5, 0.5, 0.0])
    faults = subset_faults(config, Preview((100,) * 10, (3, 32, 32)))
    keys = ["dataset.max_per_class", "dataset.holdout", "dataset.groups", "dataset.mean", "dataset.std"]
    assert [fault.key for fault in faults] == keys
    (fault,) = subset_faults(config, Preview((100,), (3, 32, 32)))
    assert "single class" in str(fault)


def test_feasibility_is_known_before_a_download(dataset_config, tmp_path):
    (fault,) = inspect(dataset_config("cifar100_lt", max_per_class=600), tmp_path, download=True)
    assert "class 0 has 500 images and needs 600" in str(fault)
    (fault,) = inspect(dataset_config("cifar10_lt", holdout=5), tmp_path, download=True)
    assert fault.key == "dataset.holdout"
    assert not inspect(dataset_config("cifar10_lt", holdout=5, max_per_class=4995), tmp_path, download=True)
    assert preview(dataset_config("cmnist_lt"), tmp_path).image_shape == (3, 28, 28)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("source", ["csa.data.sources.Nothing", "no_such_package.Source", "Source"])
def test_a_source_that_does_not_exist(dataset_config, tmp_path, source):
    with pytest.raises(UserError) as caught:
        inspect(dataset_config("digits_lt", source=source), tmp_path, False)
    assert caught.value.faults[0].key == "dataset.source"


def test_flipped_labels_decide_the_counts(dataset_config, write_npz, tmp_path):
    rng = np.random.default_rng(0)
    labels, test = np.repeat(np.arange(10), 200), np.arange(10)
    train_images = rng.integers(0, 256, (2000, 28, 28), dtype=np.uint8)
    test_images = rng.integers(0, 256, (10, 28, 28), dtype=np.uint8)
    write_npz(tmp_path / "mnist.npz", x_train=train_images, y_train=labels, x_test=test_images, y_test=test)
    change = {"max_per_class": 200, "imbalance_ratio": 10}
    plain = load_split(dataset_config("cmnist_lt", label_flip=0, **change), tmp_path, False)
    noisy = load_split(dataset_config("cmnist_lt", **change), tmp_path, False)
    assert sum(noisy.counts) == sum(plain.counts)
    assert noisy.counts == tuple(np.bincount(noisy.train_labels))
    assert noisy.counts != plain.counts
    assert (np.diff(noisy.train_labels) >= 0).all()
    assert noisy.hash != plain.hash
    shown = [{image.tobytes() for image in one.train_images} for one in (plain, noisy)]
    assert len(shown[0] - shown[1]) > 50  # colours follow the labels
    change |= {"label_flip": 0, "imbalance_ratio": 50}
    smaller = load_split(dataset_config("cmnist_lt", **change), tmp_path, False)
    assert {image.tobytes() for image in smaller.train_images} <= shown[0]  # the same colours at every ratio


def test_hashes_are_remembered_until_the_file_changes(dataset_config, write_npz, tmp_path, monkeypatch):
    path, cache = write_npz(), tmp_path / "cache"
    config = dataset_config("npz", path=str(path))
    value = split_hash(config, tmp_path, False, cache)
    assert value == load_split(config, tmp_path, False).hash
    loads = []
    monkeypatch.setattr("csa.sweep.splits.load_split", lambda *a: loads.append(a) or load_split(*a))
    assert split_hash(config, tmp_path, False, cache) == value
    assert not loads
    other = split_hash(dataset_config("npz", path=str(path), holdout=0, split_seed=1), tmp_path, False, cache)
    assert (len(loads), len(json.loads((cache / "splits.json").read_text()))) == (1, 2)
    assert other != value
    write_npz(train=(7, 5, 4))
    changed = split_hash(config, tmp_path, False, cache)
    assert (len(loads), changed != value) == (2, True)
    (cache / "splits.json").write_text("{damaged")
    assert split_hash(config, tmp_path, False, cache) == changed
    assert [file.name for file in cache.iterdir()] == ["splits.json"]


def test_nothing_of_the_data_room_imports_torch_early():
    modules = "csa.data.dataset, csa.sweep.splits, csa.data.samplers, csa.data.sources, csa.data.long_tail"
    program = f"import {modules}, sys; assert not {{'torch', 'PIL', 'sklearn'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
