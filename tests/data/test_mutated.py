"""Good data damaged at random: whatever it is, it is read or it is a fault of the user's, in one line each."""

from __future__ import annotations

import os
import shutil
import warnings

import numpy as np
import pytest
from PIL import Image
from shaped_tree import write_tree

from csa.config.faults import UserError
from csa.data.dataset import load_split
from csa.data.decoding import pixels_at
from csa.data.image_files import ImageFiles

ROUNDS = 60
JUNK = [
    b"\0",
    b"\xff",
    b"\n",
    b" ",
    b"-",
    b"9" * 25,
    b"../",
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    b"\x1b[31m",
    b"(",
    b"\xcc\x81",
]


def mutated(content: bytes, draw: np.random.Generator) -> bytes:
    """A few bytes flipped, cut out, put in or doubled."""
    data = bytearray(content)
    for _ in range(draw.integers(1, 4)):
        place, length = (int(draw.integers(0, len(data) + 1)), int(draw.integers(1, 40)))
        match draw.integers(0, 5):
            case 0:
                data[place : place + 1] = bytes([draw.integers(0, 256)])
            case 1:
                del data[place : place + length]
            case 2:
                data[place:place] = JUNK[draw.integers(0, len(JUNK))]
            case 3:
                data[place:place] = data[place : place + length]
            case 4:
                del data[place:]
    return bytes(data)


def read(config):
    """Load, and look at the images as training would; returns whether that went well."""
    faults = ()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            split = load_split(config, "unused", False)
            if isinstance(split.test_images, ImageFiles):
                pixels_at(split.test_images, range(len(split.test_images)))
    except UserError as error:
        faults = error.faults
    assert all(str(fault).isprintable() for fault in faults)
    return not faults


def test_arrays(dataset_config, write_npz):
    draw, path = np.random.default_rng(0), write_npz(classes=np.array(["cat", "dog", "owl"]))
    whole, config = path.read_bytes(), dataset_config("npz", path=str(path))
    ends = [offset for offset in range(len(whole)) if whole[offset : offset + 2] == b"PK"]
    read_well = 0
    for _ in range(ROUNDS):
        start = draw.choice(ends)  # most of the file is pixels: damage comes near the headers
        content = whole[:start] + mutated(whole[start : start + 200], draw) + whole[start + 200 :]
        path.write_bytes(content)
        read_well += read(config)
    assert read_well < ROUNDS
    path.write_bytes(whole)
    assert read(config)


@pytest.fixture
def tree(tmp_path):
    write_tree(tmp_path / "tree", classes=3, largest=4, smallest=2, of_each=1, side=24)
    return tmp_path / "tree"


def test_lists(dataset_config, tree, tmp_path):
    lists = {f"{part}_list": f"ImageNet_LT_{part}.txt" for part in ("train", "val", "test")}
    config = dataset_config("list_files", root=str(tree), image_size=16, cache_dir=str(tmp_path / "cache"), **lists)
    draw, names = np.random.default_rng(1), list(lists.values())
    whole = {name: (tree / name).read_bytes() for name in names}
    for _ in range(ROUNDS):
        name = draw.choice(names)
        (tree / name).write_bytes(mutated(whole[name], draw))
        read(config)
        (tree / name).write_bytes(whole[name])
    assert read(config)


def test_images_and_folders(dataset_config, tmp_path):
    folder, draw = tmp_path / "folder", np.random.default_rng(2)
    config = dataset_config("image_folder", path=str(folder), image_size=16)
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            (folder / part / name / "below").mkdir(parents=True)
            for ending in ("png", "jpg", "gif", "tif", "webp", "bmp"):
                pixels = draw.integers(0, 256, (20, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / part / name / "below" / f"x.{ending}")
    assert read(config)
    read_well = 0
    for number in range(ROUNDS // 2):
        damaged = tmp_path / str(number)
        shutil.copytree(folder, damaged)
        places = sorted(path for path in damaged.rglob("*") if path != damaged)
        for place in (places[k] for k in draw.integers(0, len(places), 2)):
            _spoil(place, draw)
        read_well += read(dataset_config("image_folder", path=str(damaged), image_size=16))
        shutil.rmtree(damaged)
    assert 0 < read_well < ROUNDS // 2


def _spoil(place, draw):
    """Another content, name or kind of a file or folder."""
    if not place.exists():
        return
    match draw.integers(0, 5):
        case 0 if place.is_file():
            place.write_bytes(mutated(place.read_bytes(), draw))
        case 1:
            own = bytes(draw.integers(1, 256, 6, dtype=np.uint8)).replace(b"/", b"_")
            place.rename(os.fsdecode(os.fsencode(place.parent) + b"/" + own + os.fsencode(place.suffix)))
        case 2:
            place.with_name(f"{draw.integers(0, 10**9)}").symlink_to(place.parent.parent)
        case 3:
            os.mkfifo(place.with_name(f"{draw.integers(0, 10**9)}.png"))
        case _:
            shutil.rmtree(place) if place.is_dir() else place.unlink()
            place.symlink_to("nowhere")
