from __future__ import annotations

import os
import pickle
import shutil
import zipfile
from dataclasses import replace
from hashlib import md5
from urllib.error import URLError

import numpy as np
import pytest
from PIL import Image

from csa.config.faults import UserError
from csa.data.dataset import inspect, load_split
from csa.data.sources import (
    ColouredSource,
    DigitsSource,
    ImageFolderSource,
    NpzSource,
    TorchvisionSource,
)
from csa.data.sources.coloured import PALETTE, draw_colours, flip_labels
from csa.data.split import Arrays

# --- digits ---------------------------------------------------------------------------------


def test_digits(dataset_config, tmp_path):
    from sklearn.datasets import load_digits

    config = dataset_config("digits_lt")
    arrays = DigitsSource().load(config, tmp_path, download=False)
    assert arrays.train_images.shape == (1297, 16, 16, 1)
    assert arrays.test_images.shape == (500, 16, 16, 1)
    assert (arrays.train_images.dtype, arrays.train_labels.dtype) == (np.uint8, np.int64)
    assert np.bincount(arrays.test_labels).tolist() == [50] * 10
    preview = DigitsSource().preview(config, tmp_path)
    assert preview.class_sizes == tuple(np.bincount(arrays.train_labels))
    assert preview.image_shape == (1, 16, 16)
    digits = load_digits()
    first = arrays.train_images[0, ::2, ::2, 0]
    np.testing.assert_allclose(first, digits.images[0] * 255 / 16, atol=0.5)
    assert np.array_equal(first, arrays.train_images[0, 1::2, 1::2, 0])
    last_three = np.flatnonzero(digits.target == 3)[-50:]
    np.testing.assert_allclose(
        arrays.test_images[arrays.test_labels == 3][:, ::2, ::2, 0], digits.images[last_three] * 255 / 16, atol=0.5
    )
    assert arrays.classes == tuple("0123456789")


def test_digits_leave_some_images_for_training(dataset_config, tmp_path):
    (fault,) = DigitsSource().inspect(dataset_config("digits_lt", test_per_class=174), tmp_path, False)
    assert (fault.key, fault.allowed) == ("dataset.test_per_class", "1 to 173")


# --- npz ------------------------------------------------------------------------------------


def npz_faults(dataset_config, path):
    return NpzSource().inspect(dataset_config("npz", path=str(path)), path.parent, False)


def test_a_good_npz(dataset_config, write_npz, tmp_path):
    path = write_npz(classes=np.array(["cat", "dog", "owl"]))
    config = dataset_config("npz", path=str(path))
    assert not npz_faults(dataset_config, path)
    assert NpzSource().preview(config, tmp_path).class_sizes == (6, 5, 4)
    assert NpzSource().preview(config, tmp_path).image_shape == (3, 8, 8)
    arrays = NpzSource().load(config, tmp_path, False)
    assert arrays.classes == ("cat", "dog", "owl")
    with np.load(path) as file:
        assert np.array_equal(arrays.train_images, file["x_train"])
        assert np.array_equal(arrays.test_labels, file["y_test"])


def test_an_npz_with_validation_images(dataset_config, write_npz, tmp_path):
    images = np.full((2, 8, 8, 3), 7, np.uint8)
    config = dataset_config("npz", path=str(write_npz(x_val=images, y_val=np.array([1, 1]))))
    assert NpzSource().preview(config, tmp_path).validation
    split = load_split(config, tmp_path, False)
    assert split.holdout_labels.tolist() == [1, 1]
    assert (split.holdout_images == 7).all()
    assert split.hash != load_split(dataset_config("npz", path=str(write_npz())), tmp_path, False).hash
    for changes, told in (
        ({"x_val": images}, "has no key y_val"),
        ({"x_val": images, "y_val": np.array([1, 3])}, "y_val holds labels 3"),
        ({"x_val": images, "y_val": np.array([1])}, "x_val holds 2 images, y_val 1 labels"),
        ({"x_val": images[:, 1:], "y_val": np.array([1, 1])}, "validation images [7, 8, 3]"),
    ):
        (fault,) = NpzSource().inspect(dataset_config("npz", path=str(write_npz(**changes))), tmp_path, False)
        assert told in str(fault).replace("are [", "[").replace("images are", "images")


def test_greyscale_npz_gets_a_channel_axis(dataset_config, write_npz, tmp_path):
    grey = {"x_train": np.ones((15, 8, 9), np.uint8), "x_test": np.ones((6, 8, 9), np.uint8)}
    config = dataset_config("npz", path=str(write_npz(**grey, y_test=np.array([0, 0, 1, 1, 2, 2], np.uint8))))
    assert NpzSource().preview(config, tmp_path).image_shape == (1, 8, 9)
    arrays = NpzSource().load(config, tmp_path, False)
    assert arrays.train_images.shape == (15, 8, 9, 1)
    assert arrays.test_labels.dtype == np.int64
    assert arrays.classes == ("0", "1", "2")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"x_train": None, "y_test": None}, ["no key x_train, y_test"]),
        ({"x_train": np.zeros((15, 8, 8, 3), np.int64)}, ["x_train is int64 [15, 8, 8, 3]"]),
        ({"x_train": np.zeros((15, 8, 8, 3), complex)}, ["x_train is complex128 [15, 8, 8, 3]"]),
        ({"x_train": np.zeros((0, 8, 8, 3), np.uint8), "y_train": np.zeros(0, int)}, ["x_train is uint8 [0, 8, 8, 3]"]),
        ({"x_train": np.zeros((15, 3, 8, 8), np.uint8)}, ["x_train is uint8 [15, 3, 8, 8]"]),
        ({"x_train": np.zeros((15, 8), np.uint8)}, ["x_train is uint8 [15, 8]"]),
        ({"x_test": np.array([None] * 6, dtype=object)}, ["x_test is an object array"]),
        ({"classes": np.array(["a", "b", "c"], dtype=object)}, ["classes is an object array"]),
        ({"y_train": np.zeros(15)}, ["y_train is float64 [15]"]),
        ({"y_train": np.zeros((15, 1), int), "y_test": np.zeros(6, bool)}, ["y_train is int64", "y_test is bool"]),
        ({"x_test": np.zeros((6, 9, 8, 3), np.uint8)}, ["training images are [8, 8, 3], test images [9, 8, 3]"]),
        ({"x_train": np.zeros((14, 8, 8, 3), np.uint8)}, ["x_train holds 14 images, y_train 15 labels"]),
        ({"y_test": np.array([0, 0, 1, 1, 2, 3])}, ["y_test holds labels 3"]),
        ({"y_test": np.array([0, 0, 1, 1, 1, 1])}, ["y_test has no image of class 2 (1 of 3 missing)"]),
        ({"y_train": np.array([1] * 15)}, ["y_train has no image of class 0 (1 of 2", "y_test holds labels 2"]),
        (
            {"y_train": np.array([-1] + [0, 1] * 7), "y_test": np.array([0, 0, 0, 1, 1, 1])},
            ["y_train holds labels -1"],
        ),
        ({"y_train": np.array([0, 10**15] + [1] * 13)}, ["y_train has no image of class 2 (", "y_test has no"]),
        ({"classes": np.array(["a", "b"])}, ["y_train holds labels 2", "y_test holds labels 2"]),
        ({"classes": np.array(list("abcd"))}, ["y_train has no image of class 3", "y_test has no image of class 3"]),
    ],
)
def test_faults_of_an_npz(dataset_config, write_npz, changes, told):
    faults = npz_faults(dataset_config, write_npz(**changes))
    assert len(faults) == len(told)
    for fault, text in zip(faults, told, strict=True):
        assert fault.key == "dataset.path"
        assert text in str(fault)


@pytest.mark.parametrize("kind", [">u2", "<u2", "f2", "f4", "f8"])
def test_images_of_more_than_eight_bits(dataset_config, write_npz, tmp_path, kind):
    levels = np.linspace(0, 1, 15 * 64).reshape(15, 8, 8)
    images = (levels * 65535 if "u" in kind else levels).astype(kind)
    path = write_npz(x_train=images, x_test=np.zeros((6, 8, 8), np.uint8))
    assert not npz_faults(dataset_config, path)
    found = NpzSource().load(dataset_config("npz", path=str(path)), tmp_path, False).train_images
    assert (found.shape, found.dtype) == ((15, 8, 8, 1), np.uint8)
    assert abs(found[..., 0] - 255 * levels).max() <= 1


@pytest.mark.parametrize(
    ("images", "told"),
    [
        (np.full((15, 8, 8, 3), 255.0), "x_train: it has floats from 255 to 255; allowed: from 0 to 1"),
        (np.full((15, 8, 8, 3), np.nan, np.float32), "x_train: it has floats from nan to nan"),
        (np.full((15, 8, 8, 3), 4095, np.uint16), "x_train is uint16 and ends at 4095, so that the value of white"),
    ],
)
def test_images_of_an_unknown_scale(dataset_config, write_npz, tmp_path, images, told):
    with pytest.raises(UserError) as caught:
        load_split(dataset_config("npz", path=str(write_npz(x_train=images))), tmp_path, False)
    assert told in str(caught.value)


def rewritten(path, name, change):
    """The file with an entry's bytes changed (``change``: bytes to bytes), or with its directory's (``name`` None)."""
    if name is None:
        path.write_bytes(change(path.read_bytes()))
        return path
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry, content in entries.items():
            archive.writestr(entry, change(content) if entry == name else content)
    return path


def with_flag(content, offset, value):
    """Local and central headers of the first entry with two bytes set at an offset of the local one."""
    central, data = content.index(b"PK\x01\x02"), bytearray(content)
    data[offset : offset + 2] = data[central + offset + 2 : central + offset + 4] = value.to_bytes(2, "little")
    return bytes(data)


def resized(content, shape):
    """An array's bytes with another shape of y_train in its header, which stays as long."""
    end = content.index(b"\n") + 1
    header = content[:end].replace(b"(15,)", shape)
    return header[: end - 1].rstrip().ljust(end - 1) + b"\n" + content[end:]


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        ("y_train.npy", lambda c: resized(c, b"(10**12,)"), "cannot be read as an .npz file ("),
        (
            "y_train.npy",
            lambda c: resized(c, b"(1000000000000,)"),
            "declares int64 [1000000000000], 8,0",
        ),
        ("y_train.npy", lambda c: resized(c, b"(15,-1)"), "declares int64 [15, -1], -120 bytes, and has 120"),
        ("y_train.npy", lambda c: resized(c, b"((15,)"), "cannot be read as an .npz file ("),
        ("x_test.npy", lambda c: c[:6] + b"\x09\x09" + c[8:], "x_test.npy has format 9.9, which numpy does not know"),
        ("x_test.npy", lambda c: b"no array", "cannot be read as an .npz file ("),
        ("x_test.npy", lambda c: c[:-5], "x_test.npy declares uint8 [6, 8, 8, 3], 1,152 bytes, and has 1,147"),
        (None, lambda c: with_flag(c, 6, 1), "is encrypted"),
        (None, lambda c: with_flag(c, 8, 77), "compression method is not supported"),
        (None, lambda c: with_flag(c, 4, 999), "zip file version"),
    ],
)
def test_an_archive_that_is_damaged_or_lies(dataset_config, write_npz, tmp_path, name, change, told):
    (fault,) = npz_faults(dataset_config, rewritten(write_npz(), name, change))
    assert told in str(fault)
    assert "\n" not in str(fault)


def test_an_array_that_stands_twice(dataset_config, write_npz):
    path = write_npz()
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("y_test.npy", b"")
    assert "y_test stands in it more than once" in str(npz_faults(dataset_config, path)[0])


def test_arrays_that_fit_no_memory_are_refused_and_others_left_out_and_told(dataset_config, write_npz, monkeypatch):
    path = write_npz(x_valid=np.zeros(3), meta=np.array({"a": 1}, dtype=object))
    config = dataset_config("npz", path=str(path))
    notes = NpzSource().load(config, path.parent, False).notes
    assert notes == ("left out of small.npz: 2 array(s): x_valid, meta",)
    monkeypatch.setattr("csa.data.sources.npz.free_memory", lambda: 4000)
    assert "its arrays take 0.0 GB; 0.0 GB are free" in str(npz_faults(dataset_config, path)[0])


def test_a_key_nearly_right_is_named(dataset_config, write_npz):
    (fault,) = npz_faults(dataset_config, write_npz(x_train=None, X_train=np.zeros((15, 8, 8), np.uint8)))
    assert fault.nearest == "X_train"


def test_npz_that_is_none(dataset_config, write_npz, tmp_path):
    other = tmp_path / "text.npz"
    other.write_text("not an archive")
    assert "text.npz cannot be read as an .npz file (File is not a zip" in str(npz_faults(dataset_config, other)[0])
    assert "no such file" in str(npz_faults(dataset_config, tmp_path / "absent.npz")[0])
    assert "not a file" in str(npz_faults(dataset_config, tmp_path)[0])
    whole = write_npz()
    cut = tmp_path / "cut.npz"
    cut.write_bytes(whole.read_bytes()[:800])
    assert "cut.npz cannot be read as an .npz file (" in str(npz_faults(dataset_config, cut)[0])


def test_npz_damaged_in_its_pixels_is_told_when_read(dataset_config, write_npz, tmp_path):
    path = write_npz()
    content = bytearray(path.read_bytes())
    content[400] ^= 255
    path.write_bytes(content)
    with pytest.raises(UserError, match="cannot be read"):
        NpzSource().load(dataset_config("npz", path=str(path)), tmp_path, False)


# --- image folder ---------------------------------------------------------------------------


@pytest.fixture
def image_folder(tmp_path):
    root = tmp_path / "pictures"
    for part, number in (("train", 3), ("test", 1)):
        for name, colour in (("owl", (255, 0, 0)), ("cat", (0, 0, 255))):
            (root / part / name).mkdir(parents=True)
            for i in range(number):
                Image.new("RGB", (20, 10), colour).save(root / part / name / f"{i}.png")
    return root


def folder_config(dataset_config, root, **changes):
    return dataset_config("image_folder", path=str(root), **changes)


def test_image_folder(dataset_config, image_folder):
    wide = np.zeros((10, 20, 3), np.uint8)
    wide[:, 5:15] = 200  # what the centre crop keeps
    Image.fromarray(wide).save(image_folder / "train" / "cat" / "0.png")
    config = folder_config(dataset_config, image_folder, image_size=10)
    assert not ImageFolderSource().inspect(config, image_folder, False)
    assert ImageFolderSource().preview(config, image_folder).class_sizes == (3, 3)
    assert len(ImageFolderSource().files(config, image_folder)) == 8
    arrays = ImageFolderSource().load(config, image_folder, False)
    assert arrays.classes == ("cat", "owl")
    assert arrays.train_images.shape == (6, 10, 10, 3)
    assert arrays.train_labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert arrays.test_labels.tolist() == [0, 1]
    assert (arrays.train_images[0] == 200).all()
    assert (arrays.train_images[3] == (255, 0, 0)).all()


def test_val_beside_train_and_test_has_the_validation_images(dataset_config, image_folder):
    config = folder_config(dataset_config, image_folder)
    plain = load_split(config, image_folder, False)
    assert not ImageFolderSource().preview(config, image_folder).validation
    (image_folder / "val" / "owl").mkdir(parents=True)
    (image_folder / "val" / "cat").mkdir()
    shutil.copyfile(image_folder / "train" / "owl" / "0.png", image_folder / "val" / "owl" / "7.png")
    assert ImageFolderSource().preview(config, image_folder).validation
    split = load_split(config, image_folder, False)
    assert split.holdout_labels.tolist() == [1]
    assert (split.holdout_images[0] == plain.train_images[plain.train_labels == 1][0]).all()
    assert split.counts == plain.counts
    assert split.hash != plain.hash
    (fault,) = ImageFolderSource().inspect(replace(config, path=str(image_folder / "train")), image_folder, False)
    assert "a folder with train/" in fault.allowed
    (image_folder / "val" / "dog").mkdir()
    (fault,) = ImageFolderSource().inspect(config, image_folder, False)
    assert "val/ has classes that train/ has not: dog" in str(fault)
    (image_folder / "val" / "dog").rmdir()
    with pytest.raises(UserError, match="brings validation images of its own; allowed: 0"):
        load_split(replace(config, holdout_share=0.2), image_folder, False)


def test_every_unreadable_image_is_named(dataset_config, image_folder):
    (image_folder / "train" / "cat" / "empty.jpg").write_bytes(b"")
    cut = image_folder / "test" / "owl" / "0.png"
    cut.write_bytes(cut.read_bytes()[:50])
    with pytest.raises(UserError) as caught:
        ImageFolderSource().load(folder_config(dataset_config, image_folder), image_folder, False)
    named = [str(fault.value) for fault in caught.value.faults]
    assert named == [str(image_folder / "train" / "cat" / "empty.jpg"), str(cut)]


def test_images_in_folders_below_a_class_are_its_own(dataset_config, image_folder, tmp_path):
    below = image_folder / "train" / "cat" / "images" / "session 2"
    below.mkdir(parents=True)
    Image.new("RGB", (9, 9), (1, 2, 3)).save(below / "x.BMP")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    Image.new("RGB", (9, 9), (4, 5, 6)).save(elsewhere / "no_ending", "PNG")
    (image_folder / "train" / "owl" / "linked").symlink_to(elsewhere)
    for part in ("train", "test"):
        (image_folder / part / "ant").symlink_to(elsewhere)
    config = folder_config(dataset_config, image_folder, image_size=8)
    assert not ImageFolderSource().inspect(config, image_folder, False)
    assert ImageFolderSource().preview(config, image_folder).class_sizes == (1, 4, 4)
    arrays = ImageFolderSource().load(config, image_folder, False)
    assert arrays.classes == ("ant", "cat", "owl")
    assert arrays.train_labels.tolist() == [0] + [1] * 4 + [2] * 4
    assert arrays.train_images[[0, 4, 8], 0, 0].tolist() == [[4, 5, 6], [1, 2, 3], [4, 5, 6]]
    assert arrays.notes == ()
    assert len(ImageFolderSource().files(config, image_folder)) == 9 + 3


def test_whatever_is_left_out_is_told_and_counted(dataset_config, image_folder):
    for name in (".hidden.png", "cat/.ipynb_checkpoints", "cat/notes.txt", "cat/0.heic", "owl/Thumbs.db", "astray.png"):
        (image_folder / "train" / name).write_bytes(b"x")
    (image_folder / "valid").mkdir()
    assert ImageFolderSource().load(folder_config(dataset_config, image_folder), image_folder, False).notes == (
        f"left out of {image_folder}: 1 folder(s) beside train/, test/ and val/: valid/",
        "left out of train/: 1 in no class folder: astray.png",
        "left out of train/: 2 hidden: .hidden.png, cat/.ipynb_checkpoints",
        "left out of train/: 3 no image(s) by name: cat/0.heic, cat/notes.txt, owl/Thumbs.db",
    )


def test_what_cannot_be_reached_is_told_and_counted(dataset_config, image_folder, monkeypatch):
    cat = image_folder / "train" / "cat"
    for number in range(30):
        (cat / f"link{number:02}.png").symlink_to(f"/nowhere/{number}.png")
    (image_folder / "train" / "ant").symlink_to("/nowhere/ant")
    (cat / "again").symlink_to(image_folder / "train")
    (cat / "self").symlink_to("self")
    os.mkfifo(cat / "pipe.png")
    (image_folder / "test" / "owl" / "closed").mkdir()
    scandir = os.scandir

    def scan(folder):
        if folder.name == "closed":
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", scan)
    faults = ImageFolderSource().inspect(folder_config(dataset_config, image_folder), image_folder, False)
    assert sorted(fault.problem for fault in faults) == [
        "below test/ 1 folder(s) that cannot be read (Permission denied): owl/closed",
        "below train/ 1 link(s) to a folder that they lie in: cat/again",
        "below train/ 1 neither file(s) nor folder(s): cat/pipe.png",
        "below train/ 1 that cannot be reached (Too many levels of symbolic links): cat/self",
        "below train/ 31 link(s) whose target is gone: ant, cat/link00.png, cat/link01.png and 28 more",
    ]


def test_one_class_name_in_two_unicode_forms(dataset_config, image_folder):
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    for part, name in (("train", composed), ("test", decomposed)):
        (image_folder / part / "cat").rename(image_folder / part / name)
    config = folder_config(dataset_config, image_folder)
    assert not ImageFolderSource().inspect(config, image_folder, False)
    arrays = ImageFolderSource().load(config, image_folder, False)
    assert (arrays.classes, arrays.test_labels.tolist()) == ((composed, "owl"), [0, 1])
    Image.new("RGB", (9, 9)).save(image_folder / "0.png")
    (image_folder / "train" / decomposed).mkdir()
    (image_folder / "0.png").rename(image_folder / "train" / decomposed / "0.png")
    twins, untested = ImageFolderSource().inspect(config, image_folder, False)
    assert r"train/ has one name in two Unicode forms: 'cafe\u0301' and 'caf\xe9'" in str(twins)
    assert "test/ has no folder for caf\u00e9" in str(untested)


def test_names_that_cannot_be_shown_are_refused(dataset_config, image_folder):
    for name in (b"\x1b[31mant", b"caf\xe9"):
        for part in ("train", "test"):
            shutil.copytree(image_folder / part / "owl", os.fsdecode(os.fsencode(image_folder / part) + b"/" + name))
    with pytest.raises(UserError) as caught:
        load_split(folder_config(dataset_config, image_folder), image_folder, False)
    assert str(caught.value).splitlines() == [
        r"dataset=image_folder: class 0 is called '\x1b[31mant'; allowed: names without control characters",
        r"dataset=image_folder: class 1 is called 'caf\udce9'; allowed: names without control characters",
    ]


def test_faults_of_the_file_system_are_the_users(dataset_config, tmp_path):
    config = folder_config(dataset_config, tmp_path / ("x" * 300))
    with pytest.raises(UserError) as caught:
        inspect(config, tmp_path, False)
    (fault,) = caught.value.faults
    assert "its files cannot be read ([Errno 36] File name too long" in str(fault)


def test_faults_of_an_image_folder(dataset_config, image_folder, tmp_path):
    def told(root):
        return [str(fault) for fault in ImageFolderSource().inspect(folder_config(dataset_config, root), tmp_path, 0)]

    (image_folder / "test" / "owl").rename(image_folder / "test" / "owls")
    (image_folder / "train" / "ant").mkdir()
    empty, unknown, untested = told(image_folder)
    assert "no image in train/ant" in empty
    assert "classes that train/ has not: owls" in unknown
    assert "did you mean 'owl'" in unknown
    assert "no folder for ant, owl" in untested
    assert "there is no such folder" in told(tmp_path / "absent")[0]
    (tmp_path / "half" / "train").mkdir(parents=True)
    assert "has no folder test/" in told(tmp_path / "half")[0]
    (tmp_path / "half" / "val").mkdir()
    assert "has no folder test/; its folders are train/, val/" in told(tmp_path / "half")[0]
    (tmp_path / "half" / "test").mkdir()
    assert "no class folder" in told(tmp_path / "half")[0]
    assert "is not set" in told_without_path(dataset_config, tmp_path)


def told_without_path(dataset_config, tmp_path):
    return str(ImageFolderSource().inspect(dataset_config("image_folder", path=None), tmp_path, False)[0])


# --- torchvision ----------------------------------------------------------------------------


def write_idx(folder, name, array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    (folder / name).write_bytes(header + array.astype(np.uint8).tobytes())


@pytest.fixture
def mnist_layout(tmp_path):
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    arrays = {
        "train-images-idx3-ubyte": rng.integers(0, 256, (20, 28, 28)),
        "train-labels-idx1-ubyte": np.repeat(np.arange(10), 2),
        "t10k-images-idx3-ubyte": rng.integers(0, 256, (10, 28, 28)),
        "t10k-labels-idx1-ubyte": np.arange(10),
    }
    for name, array in arrays.items():
        write_idx(folder, name, array)
    return arrays


def test_torchvisions_mnist_layout_is_read(dataset_config, mnist_layout, tmp_path):
    config = dataset_config("mnist_lt")
    assert not TorchvisionSource().inspect(config, tmp_path, False)
    assert len(TorchvisionSource().files(config, tmp_path)) == 4
    arrays = TorchvisionSource().load(config, tmp_path, False)
    assert np.array_equal(arrays.train_images[..., 0], mnist_layout["train-images-idx3-ubyte"])
    assert np.array_equal(arrays.train_labels, mnist_layout["train-labels-idx1-ubyte"])
    assert arrays.test_images.shape == (10, 28, 28, 1)
    assert (arrays.test_images.dtype, arrays.test_labels.dtype) == (np.uint8, np.int64)


def test_torchvisions_cifar_layout_is_read(dataset_config, tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR100

    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (100, 3072), dtype=np.uint8)

    def write(name, content):
        data = pickle.dumps(content)
        (folder / name).write_bytes(data)
        return md5(data).hexdigest()

    entry = {"data": pixels, "fine_labels": list(range(100))}
    monkeypatch.setattr(CIFAR100, "train_list", [["train", write("train", entry)]])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", write("test", entry)]])
    names = [f"name {k}" for k in range(100)]
    checksum = write("meta", {"fine_label_names": names})
    monkeypatch.setattr(CIFAR100, "meta", {**CIFAR100.meta, "md5": checksum})
    config = dataset_config("cifar100_lt")
    arrays = TorchvisionSource().load(config, tmp_path, False)
    assert np.array_equal(arrays.train_images, pixels.reshape(100, 3, 32, 32).transpose(0, 2, 3, 1))
    assert arrays.classes == tuple(names)
    (folder / "train").write_bytes(b"damaged")
    with pytest.raises(UserError, match="cifar-100-python cannot be read") as caught:
        TorchvisionSource().load(config, tmp_path, False)
    assert caught.value.faults[0].key == "data_dir"


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        ("train-images-idx3-ubyte", lambda c: c[:5000], "cannot be read"),
        ("train-images-idx3-ubyte", lambda c: b"", "cannot be read"),
        ("t10k-labels-idx1-ubyte", lambda c: c[:3] + b"\x09" + c[4:], "MNIST in .*raw cannot be read"),
        (
            "t10k-labels-idx1-ubyte",
            lambda c: c[:7] + b"\x09" + c[8:-1],
            "dataset=mnist_lt: has 10 test images and 9 labels",
        ),
        ("t10k-labels-idx1-ubyte", lambda c: c[:-1] + b"\xff", "has test labels from 0 to 255; allowed: 0 to 9"),
    ],
)
def test_a_damaged_mnist_layout_is_told(dataset_config, mnist_layout, tmp_path, name, change, told):
    path = tmp_path / "MNIST" / "raw" / name
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(UserError, match=told):
        load_split(dataset_config("mnist_lt"), tmp_path, False)


def test_published_class_sizes_stand_for_a_set_that_is_not_there_yet(dataset_config, tmp_path):
    preview = TorchvisionSource().preview(dataset_config("mnist_lt"), tmp_path)
    assert sum(preview.class_sizes) == 60000
    assert TorchvisionSource().preview(dataset_config("cifar100_lt"), tmp_path).image_shape == (3, 32, 32)
    assert not TorchvisionSource().inspect(dataset_config("mnist_lt"), tmp_path, download=True)


def test_a_missing_set_without_download(dataset_config, tmp_path):
    folder = tmp_path / "absent"
    (fault,) = TorchvisionSource().inspect(dataset_config("cifar10_lt"), folder, download=False)
    assert (fault.key, fault.value) == ("data_dir", str(folder))
    assert "CIFAR10 is not there, and download=false" in str(fault)
    assert "cifar-10-batches-py/ or cifar10.npz" in str(fault)
    with pytest.raises(UserError, match="CIFAR10 is not there"):
        TorchvisionSource().load(dataset_config("cifar10_lt"), folder, download=False)
    assert not folder.exists()


@pytest.mark.parametrize(("name", "archive"), [("mnist_lt", "MNIST"), ("cifar10_lt", "CIFAR10")])
def test_no_network(dataset_config, tmp_path, monkeypatch, name, archive):
    def unreachable(*_, **__):
        raise URLError("no network")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    folder = tmp_path / "new" / "data"
    with pytest.raises(UserError) as caught:
        TorchvisionSource().load(dataset_config(name), folder, download=True)
    (fault,) = caught.value.faults
    assert (fault.key, fault.value) == ("data_dir", str(folder))
    assert f"{archive} is not there and could not be downloaded" in str(fault)
    assert "no network" in str(fault)
    assert ".npz" in fault.allowed
    assert not (tmp_path / "new").exists()  # nothing is left behind


def test_a_named_npz_stands_in_for_the_layout(dataset_config, write_npz, tmp_path):
    (fault,) = TorchvisionSource().inspect(
        dataset_config("cifar10_lt"), write_npz(tmp_path / "cifar10.npz").parent, True
    )
    assert "3 classes of 8x8 images with 3 channel(s)" in str(fault)
    assert "10 classes of 32x32" in fault.allowed
    train = {"x_train": np.zeros((20, 28, 28), np.uint8), "y_train": np.repeat(np.arange(10), 2)}
    test = {"x_test": np.zeros((10, 28, 28), np.uint8), "y_test": np.arange(10)}
    write_npz(tmp_path / "mnist.npz", **train, **test)
    config = dataset_config("mnist_lt")
    assert not TorchvisionSource().inspect(config, tmp_path, False)
    assert TorchvisionSource().preview(config, tmp_path).class_sizes == (2,) * 10
    assert TorchvisionSource().load(config, tmp_path, False).train_images.shape == (20, 28, 28, 1)
    assert TorchvisionSource().files(config, tmp_path) == [tmp_path / "mnist.npz"]


# --- coloured -------------------------------------------------------------------------------


TAB10 = "1f77b4 ff7f0e 2ca02c d62728 9467bd 8c564b e377c2 7f7f7f bcbd22 17becf"  # matplotlib.colormaps["tab10"]


def test_eight_images_by_hand(dataset_config):
    """Colours follow the labels that training sees; products are truncated: 200 * 0x8c / 255 = 109.8 is 109."""
    assert " ".join("".join(f"{channel:02x}" for channel in colour) for colour in PALETTE) == TAB10
    grey = np.array([255, 200, 200, 100, 100, 1, 255, 128], np.uint8)[:, None, None, None]
    true, seen = np.array([5, 5, 0, 6, 9, 7, 8, 1]), np.array([5, 5, 5, 9, 6, 7, 2, 4])
    pool = Arrays(np.broadcast_to(grey, (8, 1, 1, 3)), true, grey, true, tuple("0123456789"))
    drawn = draw_colours(0, "train", 8)
    config, order = dataset_config("cmnist_lt"), np.array([7, 6, 5, 4, 3, 2, 1, 0])
    images = ColouredSource().training_images(config, pool, order, seen[order])[::-1, 0, 0]
    assert images[:6].tolist() == [[140, 86, 75], [109, 67, 58], [109, 67, 58], [9, 74, 81], [89, 46, 76], [0, 0, 0]]
    assert images[6].tolist() == PALETTE[drawn[6]].tolist()
    assert images[7].tolist() == [int(128 * channel / 255) for channel in PALETTE[drawn[7]]]


@pytest.fixture
def grey_npz(write_npz, tmp_path):
    """3,000 training and 3,000 test images, all white: the colour shows."""
    labels = np.random.default_rng(4).permutation(np.repeat(np.arange(10), 300))
    test = np.repeat(np.arange(10), 300)
    white = np.full((3000, 28, 28), 255, np.uint8)
    write_npz(tmp_path / "mnist.npz", x_train=white, y_train=labels, x_test=white, y_test=test)
    return tmp_path


def colours_of(images):
    """The palette index of each white image."""
    return (images[:, 0, 0, None] == PALETTE[None]).all(-1).argmax(1)


def test_colours_give_flipped_labels_of_the_tail_away(dataset_config, grey_npz):
    config = dataset_config("cmnist_lt", max_per_class=200, imbalance_ratio=2, holdout=50)
    assert config.label_flip == 0.25
    split = load_split(config, grey_npz, False)
    for k in range(10):
        own = np.bincount(colours_of(split.train_images[split.train_labels == k]), minlength=10)
        assert (own.min() > 3) if k < 5 else (own[k] == split.counts[k])
        held = np.bincount(colours_of(split.holdout_images[split.holdout_labels == k]), minlength=10)
        assert held.sum() == 50
        assert (held.max() < 20) if k < 5 else (held[k] == 50)
        test = np.bincount(colours_of(split.test_images[split.test_labels == k]), minlength=10)
        assert test.min() > 5  # uniform: 30 expected
    assert split.test_labels.tolist() == np.repeat(np.arange(10), 300).tolist()  # not flipped
    again, other = (load_split(replace(config, colour_seed=seed), grey_npz, False) for seed in (0, 1))
    assert again.hash == split.hash != other.hash
    assert (split.test_images != other.test_images).any()


def test_colour_archives_cannot_be_coloured(dataset_config, tmp_path):
    faults = ColouredSource().inspect(dataset_config("cmnist_lt", archive="CIFAR10"), tmp_path, True)
    assert [fault.key for fault in faults] == ["dataset.archive"]


def test_label_flips_are_exact_in_number_and_proportional_to_class_size():
    sizes = np.array([40000, 20000, 10000, 10000])
    labels = np.repeat(np.arange(4), sizes)
    flipped = flip_labels(labels, 4, 0.25, seed=0)
    assert (flipped != labels).sum() == 20000
    assert np.array_equal(flip_labels(labels, 4, 0.25, seed=0), flipped)
    for k in range(4):
        moved = flipped[(labels == k) & (flipped != labels)]
        assert len(moved) == pytest.approx(sizes[k] / 4, rel=0.1)
        others = np.where(np.arange(4) == k, 0, sizes)
        np.testing.assert_allclose(np.bincount(moved, minlength=4) / len(moved), others / others.sum(), atol=0.03)
    assert np.array_equal(flip_labels(labels, 4, 0, seed=0), labels)
    assert (flip_labels(labels, 4, 1, seed=0) != labels).all()
