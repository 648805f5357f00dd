"""Places-LT, iNaturalist 2018 and Tiny-ImageNet-LT, on trees and lists made up in their form."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from csa.config.faults import UserError
from csa.data.dataset import inspect, load_split, preview
from csa.data.long_tail import groups_by_count, groups_by_rank, wanted_counts

# --- Tiny-ImageNet-LT -------------------------------------------------------------------------

CLASSES = ("n02", "n01", "n03")
GREYS = dict(zip(CLASSES, (40, 120, 200), strict=True))


@pytest.fixture
def tree(tmp_path):
    """Three classes of 12 training images, each of its grey and its number; two test images a class."""
    for name in CLASSES:
        (tmp_path / "train" / name / "images").mkdir(parents=True)
        for number in range(12):
            picture = Image.new("RGB", (64, 64), (GREYS[name], 5 * number, 0))
            picture.save(tmp_path / "train" / name / "images" / f"{name}_{number}.JPEG", quality=100)
    (tmp_path / "val/images").mkdir(parents=True)
    lines = []
    for number, name in enumerate(CLASSES * 2):
        Image.new("L", (64, 64), GREYS[name]).save(tmp_path / "val/images" / f"val_{number}.JPEG")
        lines.append(f"val_{number}.JPEG\t{name}\t0\t32\t44\t62\n")
    (tmp_path / "val/val_annotations.txt").write_text("".join(lines))
    return tmp_path


@pytest.fixture
def tiny(dataset_config, tree):
    return dataset_config("tiny_imagenet_lt", path=str(tree), max_per_class=12, imbalance_ratio=4)


def test_tiny_imagenet_is_read_as_it_is_unpacked(tiny, tree):
    assert inspect(tiny, "unused", False) == []
    known = preview(tiny, "unused")
    assert (known.class_sizes, known.image_shape) == ((12, 12, 12), (3, 64, 64))
    split = load_split(tiny, "unused", False)
    assert split.classes == ("n01", "n02", "n03")
    assert split.counts == (12, 6, 3)
    assert split.train_images.shape == (21, 64, 64, 3)
    greys = split.train_images[:, 32, 32, 0].astype(int)
    assert np.abs(greys - [GREYS[split.classes[label]] for label in split.train_labels]).max() < 4
    assert len({tuple(pixel) for pixel in split.train_images[:, 32, 32].tolist()}) == 21  # no image twice
    assert split.test_labels.tolist() == [1, 0, 2, 1, 0, 2]
    assert split.test_images[:, 0, 0, 2].tolist() == [40, 120, 200, 40, 120, 200]
    before = split.hash
    Image.new("RGB", (64, 64)).save(tree / "val/images/val_0.JPEG")
    assert load_split(tiny, "unused", False).hash != before


def test_of_the_real_size_it_has_its_published_counts(dataset_config):
    counts = wanted_counts(dataset_config("tiny_imagenet_lt"), [500] * 200)
    assert (len(counts), counts[0], counts[-1], sum(counts)) == (200, 500, 5, 21_549)


def test_what_is_wrong_with_the_tree_is_said(tiny, tree, dataset_config):
    (fault,) = inspect(dataset_config("tiny_imagenet_lt", path=str(tree / "not")), "unused", False)
    assert str(fault).endswith(
        "there is no such folder; allowed: http://cs231n.stanford.edu/tiny-imagenet-200.zip, unpacked"
    )
    (tree / "train/n09/images").mkdir(parents=True)
    annotations = tree / "val/val_annotations.txt"
    annotations.write_text(
        annotations.read_text().replace("val_1.JPEG\tn01", "val_9.JPEG\tn05").replace("\tn01", "\tn02")
    )
    told = [fault.problem for fault in inspect(tiny, "unused", False)]
    assert told == [
        "train/ has classes without an image: n09",
        "val/val_annotations.txt has classes that train/ has not: n05",
        "val/val_annotations.txt has no image of: n01",
        "val/val_annotations.txt names images that are not there: val/images/val_9.JPEG",
    ]


def test_a_damaged_image_is_named(tiny, tree):
    (tree / "val/images/val_3.JPEG").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"val_3\.JPEG: cannot be read as an image"):
        load_split(tiny, "unused", False)


# --- Places-LT and iNaturalist 2018 -----------------------------------------------------------

PLACES = [4980, 383, *[364] * 129, *[60] * 156, 100, *[8] * 49, *[12] * 27, 5]


def write_lists(folder, form: str, names: tuple[str, str], counts: list[int]) -> None:
    """A training list of so many images a class, and a test list of one each."""
    place = iter(range(sum(counts) + len(counts)))
    for file, numbers in zip(names, (counts, [1] * len(counts)), strict=True):
        lines = [f"{form.format(k, next(place))} {k}\n" for k, number in enumerate(numbers) for _ in range(number)]
        (folder / file).write_text("".join(lines))


@pytest.mark.parametrize("change", [0, 1])
def test_places_lt_s_lists_are_told_from_others(dataset_config, tmp_path, change):
    counts = [*PLACES[:-1], PLACES[-1] + change]
    names = "Places_LT_train.txt", "Places_LT_test.txt"
    write_lists(tmp_path, "data_256/s/scene_{}/{}.jpg", names, counts)
    config = dataset_config("places_lt", root=str(tmp_path), lists=str(tmp_path), val_list=None)
    faults = inspect(config, "unused", False)
    if change:
        (fault,) = faults
        assert fault.problem == "names 62,501 images"
        assert fault.allowed == "62,500 as published, or dataset.listed_images=null for a list of your own"
        return
    assert faults == []
    sizes = preview(config, "unused").class_sizes
    assert (len(sizes), sum(sizes), sizes[0]) == (365, 62_500, 4980)
    by_rank, by_count = groups_by_rank(sizes, config.groups), groups_by_count(sizes)
    assert [len(group) for group in vars(by_rank).values()] == [131, 157, 77]
    assert by_rank == by_count


def test_inat18_has_its_groups_and_names_its_classes(dataset_config, tmp_path):
    config = dataset_config("inat18")
    assert sum(config.groups) == 8142
    names = "iNaturalist18_train.txt", "iNaturalist18_val.txt"
    write_lists(tmp_path, "train_val2018/Aves/{}/{}.jpg", names, [2, 5, 3])
    changes = {"root": str(tmp_path), "lists": str(tmp_path), "groups": [1, 1, 1], "listed_images": 10}
    config = dataset_config("inat18", **changes)
    assert inspect(config, "unused", False) == []
    assert preview(config, "unused").class_sizes == (5, 3, 2)
    (tmp_path / "train_val2018/Aves").mkdir(parents=True)
    for k in range(3):
        (tmp_path / f"train_val2018/Aves/{k}").mkdir()
    for file in names:
        for line in (tmp_path / file).read_text().splitlines():
            Image.new("RGB", (8, 8)).save(tmp_path / line.split()[0])
    split = load_split(config, "unused", False)
    assert (split.classes, split.counts, len(split.test_labels)) == (("1", "2", "0"), (5, 3, 2), 3)
