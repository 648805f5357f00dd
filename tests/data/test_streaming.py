"""Images that stay in their files, and those decoded once into a file: the batches that reach a step."""

from __future__ import annotations

import errno
import shutil
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import numpy as np
import pytest
import torch
from PIL import Image
from shaped_tree import write_tree
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as reference

from csa.config.faults import UserError
from csa.data import decoding
from csa.data.augmentation import ResizedCrop, as_floats, crop_boxes
from csa.data.batch import Shard, to_device
from csa.data.dataset import cache_faults, load_split
from csa.data.decoded_once import CHUNK, decoded
from csa.data.decoding import LostWorkerError, pixels_at, telling_lost_workers
from csa.data.loader import ResidentLoader
from csa.data.pictures import UnreadableImageError, decode, decode_crop
from csa.data.samplers import View
from csa.data.streaming import StreamingLoader, open_loader, plain_batches

SIDE = 16


@pytest.fixture(autouse=True)
def _short_wait_for_workers(monkeypatch):
    """Torch waits so long for each worker of an epoch that is left in its middle."""
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.2)


@pytest.fixture(scope="module")
def shaped(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shaped")
    write_tree(folder, classes=6, largest=40, smallest=2, of_each=3, side=48)
    return folder


@pytest.fixture
def make(dataset_config, shaped, protocol_config, tmp_path):
    """A loader of the shaped tree, 87 training images in batches of 20, and its split."""

    def made(workers=0, seed=0, shard=Shard(), root=shaped, batch=20, **changes):  # noqa: B008
        lists = {f"{part}_list": f"ImageNet_LT_{part}.txt" for part in ("train", "val", "test")}
        places = {"root": str(root), "lists": str(root), "cache_dir": str(tmp_path / "cache")}
        split = load_split(dataset_config("list_files", image_size=SIDE, **places, **lists, **changes), "", False)
        protocol = protocol_config("imagenet", batch_size=batch)
        return open_loader(split, protocol, "cpu", seed, workers=workers, shard=shard), split

    return made


@pytest.fixture
def streams(sampler_config):
    return {"uniform": sampler_config("shuffle"), "balanced": sampler_config("class_aware", images_per_visit=4)}


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name].labels, other[name].labels)
        assert torch.equal(one[name].images, other[name].images)


def test_a_step_is_the_same_with_and_without_workers_and_taken_up_anywhere(make, streams):
    here, split = make()
    there, _ = make(workers=2)
    assert isinstance(here, StreamingLoader)
    sizes = here.epoch(streams, 0, 3).sizes
    assert sizes == [20, 20, 20, 20, 7]
    whole = [here.epoch(streams, 0, 3).batches(step) for step in range(5)]
    epoch = there.epoch(streams, 0, 3)
    for step in (0, 1, 2, 3, 4, 2, 3):  # in a row, then again from the middle
        assert_equal(epoch.batches(step), whole[step])
    labels = torch.cat([step["uniform"].labels for step in whole])
    assert torch.bincount(labels).tolist() == list(split.counts)
    images = whole[0]["uniform"].images
    assert (images.shape, images.dtype) == ((20, 3, SIDE, SIDE), torch.float32)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert 0 <= images.min() < images.max() <= 1


def test_chunks_and_labels_reach_the_device_as_they_are_pinned(make, streams, monkeypatch):
    sent = []
    monkeypatch.setattr(decoding, "to_device", lambda held, device: sent.append(held) or to_device(held, device))
    loader, split = make(batch=50)
    batches = loader.epoch(streams, 0, 0).batches(0)
    (evaluated,) = loader.test_batches(50)
    assert [len(held) for held in sent] == [32, 18, 50, 32, 18, 50, 18, 18]  # of two streams and the test set
    assert torch.equal(batches["uniform"].labels, sent[2])
    assert torch.equal(evaluated.images, as_floats(sent[6]))
    assert evaluated.labels.tolist() == split.test_labels.tolist()


def test_the_host_does_not_wait_for_what_it_sends():
    class Held:
        """In plain memory, until it is pinned."""

        def pin_memory(self):
            return Pinned()

    class Pinned:
        def to(self, device, *, non_blocking):
            return device, non_blocking

    cuda = torch.device("cuda")
    assert to_device(Held(), cuda) == (cuda, True)
    plain = torch.arange(3)
    assert to_device(plain, torch.device("cpu")) is plain


def test_streams_are_those_of_a_loader_in_memory(make, streams, protocol_config):
    here, split = make()
    pixels = np.zeros((len(split.train_labels), SIDE, SIDE, 3), np.uint8)
    arrays = {"train_images": pixels, "test_images": pixels[:0], "holdout_images": pixels[:0]}
    resident = ResidentLoader(replace(split, **arrays), protocol_config("imagenet", batch_size=20), "cpu", 0)
    streams |= {"again": View.again("balanced", "protocol"), "sim": View.again("uniform", "sim")}
    for stage, epoch in ((0, 0), (1, 4)):
        one, other = here.epoch(streams, stage, epoch), resident.epoch(streams, stage, epoch)
        for name in streams:
            mine, theirs = one.streams[name], other.streams[name]
            assert mine.positions.tolist() == theirs.positions.tolist()
            of_squares = torch.from_numpy(crop_boxes(mine.wishes, 1, 1))
            assert torch.equal(torch.cat([of_squares, mine.changes], 1), theirs.crops)


def test_crops_are_torchvision_s_flipped_and_jittered_on_the_device(make, streams):
    loader, split = make()
    epoch = loader.epoch(streams, 0, 0)
    stream, found = epoch.streams["uniform"], torch.cat([epoch.batches(step)["uniform"].images for step in range(5)])
    sizes = set()
    for draw in range(len(found)):
        picture = decode(split.train_images.path(stream.positions[draw]))
        shares = crop_boxes(stream.wishes[draw : draw + 1], picture.height, picture.width)[0].tolist()
        high, wide = round(shares[0] * picture.height), round(shares[1] * picture.width)
        sizes.add((high, wide))
        top, left = round(shares[2] * picture.height), round(shares[3] * picture.width)
        top, left = min(top, picture.height - high), min(left, picture.width - wide)
        crop = reference.resized_crop(reference.pil_to_tensor(picture), top, left, high, wide, [SIDE, SIDE])
        flip, *factors_and_order = stream.changes[draw].tolist()
        image = (crop.flip(2) if flip else crop).float() / 255
        adjust = reference.adjust_brightness, reference.adjust_contrast, reference.adjust_saturation
        for which in map(int, factors_and_order[3:]):
            image = adjust[which](image, factors_and_order[which])
        assert torch.allclose(found[draw], image, atol=1e-3)
    assert len(sizes) > 60


def test_augmentation_has_an_address(make, streams):
    first = make()[0].epoch(streams, 0, 0).batches(1)["uniform"]
    other_seed = make(seed=1)[0].epoch(streams, 0, 0).batches(1)["uniform"]
    assert not torch.equal(first.images, other_seed.images)
    alone = make()[0].epoch({"uniform": streams["uniform"]}, 0, 0).batches(1)["uniform"]
    assert torch.equal(first.images, alone.images)
    before = torch.random.get_rng_state()
    make()[0].epoch(streams, 0, 0).batches(0)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_evaluation_is_resize_and_centre_crop(make, streams):
    loader, split = make(workers=1, validation=True)
    plain = v2.Compose([v2.PILToTensor(), v2.Resize(SIDE * 8 // 7, antialias=True), v2.CenterCrop(SIDE)])
    for batches, files, labels in (
        (loader.test_batches(5), split.test_images, split.test_labels),
        (loader.holdout_batches(7), split.holdout_images, split.holdout_labels),
        (loader.training_batches(50), split.train_images, split.train_labels),
    ):
        seen = list(batches)
        assert torch.cat([batch.labels for batch in seen]).tolist() == labels.tolist()
        expected = torch.stack([plain(decode(files.path(place))) for place in range(len(files))])
        assert torch.equal((torch.cat([batch.images for batch in seen]) * 255).round().byte(), expected)


@pytest.mark.parametrize("processes", [2, 3])
def test_the_processes_together_see_the_single_process_s_epoch(make, streams, processes):
    """87 images in batches of 20 leave 7; of a last batch of 1, two processes repeat the image and count it 0 times."""
    for batch in (20, 43):
        alone = make(batch=batch)[0]
        several = [make(shard=Shard(rank, processes), batch=batch)[0] for rank in range(processes)]
        whole, parts = alone.epoch(streams, 0, 0), [loader.epoch(streams, 0, 0) for loader in several]
        assert np.allclose(np.sum([part.weights for part in parts], axis=0), processes)
        for step in (0, whole.steps - 1):
            images = whole.batches(step)["balanced"].images
            mine = [part.batches(step)["balanced"].images for part in parts]
            kept = [one for one, part in zip(mine, parts, strict=True) if part.weights[step] > 0]
            assert torch.equal(torch.cat(kept), images)
            assert [len(one) for one in mine] == [part.sizes[step] for part in parts]
        tests = [batch.labels for loader in several for batch in loader.test_batches(4)]
        assert torch.cat(tests).tolist() == torch.cat([batch.labels for batch in alone.test_batches(4)]).tolist()
        whole_test = [batch.labels for batch in several[1].test_batches(4, whole=True)]
        assert torch.cat(whole_test).tolist() == torch.cat(tests).tolist()


def test_a_large_jpeg_is_decoded_at_a_smaller_scale(tmp_path):
    coarse = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    large = Image.fromarray(coarse).resize((1280, 960), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = 6
    large.save(tmp_path / "turned.jpg", quality=95, exif=exif)
    part = (0.5, 0.75, 0.25, 0.125)
    for pixels, size in ((64, (180, 160)), (80, (180, 160)), (100, (360, 320)), (200, (720, 640))):
        crop = decode_crop(tmp_path / "turned.jpg", lambda height, width: part, pixels)
        assert crop.size == size
        exact = decode(tmp_path / "turned.jpg").crop((120, 320, 840, 960))
        resized = [np.asarray(one.resize((pixels, pixels), Image.Resampling.BILINEAR), float) for one in (crop, exact)]
        assert abs(resized[0] - resized[1]).max() <= 4
    whole = (tmp_path / "turned.jpg").read_bytes()
    (tmp_path / "turned.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UnreadableImageError, match="truncated"):
        decode_crop(tmp_path / "turned.jpg", lambda height, width: part, 64)


@pytest.mark.parametrize(("height", "width"), [(100, 400), (400, 100), (90, 90)])
def test_an_image_no_try_fits_in_gives_its_centre(height, width):
    """Nine tenths of a very wide image are wider than a crop may be: then 4/3, the nearest ratio."""
    wishes = ResizedCrop(8, 8, (0.9, 1.0), 0.0, flip=False).wishes(500, torch.Generator().manual_seed(0))
    boxes = crop_boxes(wishes, height, width)
    in_pixels = boxes * [height, width, height, width]
    ratios = in_pixels[:, 1] / in_pixels[:, 0]
    assert ratios.min() > 0.749
    assert ratios.max() < 1.334
    assert (boxes[:, :2] + boxes[:, 2:]).max() < 1 + 1e-5
    if height < width:
        assert in_pixels == pytest.approx(np.tile([100, 400 / 3, 0, 400 / 3], (500, 1)), rel=1e-5)
    elif width < height:
        assert in_pixels == pytest.approx(np.tile([400 / 3, 100, 400 / 3, 0], (500, 1)), rel=1e-5)
    else:
        assert (boxes[:, 0] * boxes[:, 1]).min() >= 0.9 - 1e-5


# --- damage -----------------------------------------------------------------------------------


@pytest.fixture
def spoilt(shaped, tmp_path):
    """A copy with the first training image of each of the two largest classes cut, and a test image emptied."""
    folder = tmp_path / "spoilt"
    shutil.copytree(shaped, folder)
    folders = sorted((path for path in folder.glob("train/*")), key=lambda path: -len(list(path.iterdir())))
    for path in (min(folders[0].iterdir()), min(folders[1].iterdir())):
        path.write_bytes(path.read_bytes()[:300])
    min(folder.glob("val/*")).write_bytes(b"")
    return folder


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("cache", ["none", "memmap"])
def test_a_damaged_image_stops_with_its_path(make, spoilt, streams, workers, cache):
    def read():
        loader, _ = make(workers, root=spoilt, cache=cache)
        return [loader.epoch(streams, 0, 0).batches(step) for step in range(5)]

    with pytest.raises(UnreadableImageError, match=r"spoilt/(train|val)/.*\.JPEG cannot be read as an image \("):
        read()


@pytest.mark.parametrize("cache", ["none", "memmap"])
def test_or_another_of_its_class_takes_its_place(make, spoilt, streams, cache):
    loader, split = make(2, root=spoilt, unreadable="skip", cache=cache)
    epoch = loader.epoch(streams, 0, 0)
    steps = [epoch.batches(step)["uniform"] for step in range(5)]
    assert torch.bincount(torch.cat([step.labels for step in steps])).tolist() == list(split.counts)
    assert all(image.float().std() > 0 for step in steps for image in step.images)
    assert sum(len(batch.labels) for batch in loader.test_batches(5)) == len(split.test_labels) - 1
    assert sorted(path.split("/")[-3] for path in loader.damaged) == ["spoilt", "train", "train"]  # and one of val/
    assert all(loader.damaged.values())
    if cache == "memmap":  # what was passed over is not forgotten
        assert make(0, root=spoilt, unreadable="skip", cache=cache)[0].damaged == loader.damaged
        with pytest.raises(UnreadableImageError, match=r"spoilt/train/.*\.JPEG cannot be read as an image \(.+\)"):
            make(0, root=spoilt, cache=cache)


@pytest.mark.parametrize("cache", ["none", "memmap"])
def test_but_a_class_without_a_readable_image_stops_with_its_name(make, spoilt, streams, cache):
    smallest = min(spoilt.glob("train/*"), key=lambda path: len(list(path.iterdir())))
    for path in smallest.iterdir():
        path.write_bytes(path.read_bytes()[:300])

    def read():
        loader, _ = make(1, root=spoilt, unreadable="skip", cache=cache)
        return [loader.epoch(streams, 0, 0).batches(step) for step in range(5)]

    name = smallest.name
    told = (
        rf"class {name} has no training image that can be read, .*; one of them: .*spoilt/train/{name}/{name}_\d+.JPEG"
    )
    with pytest.raises(UnreadableImageError, match=told):
        read()


def test_whoever_looks_at_a_test_set_later_is_told_too(make, spoilt):
    split = make(root=spoilt, unreadable="skip")[1]
    damaged = {}
    seen = list(plain_batches(split.test_images, split.test_labels, 1, torch.device("cpu"), 0, damaged))
    assert (len(seen), len(damaged)) == (len(split.test_labels) - 1, 1)
    place = split.test_images.names.tolist().index(next(iter(damaged)).removeprefix(f"{spoilt}/"))
    with pytest.raises(UserError, match=r"spoilt/val/.*\.JPEG: cannot be read as an image \("):
        pixels_at(split.test_images, [place])


@pytest.mark.parametrize("cache", ["none", "memmap"])
def test_a_test_set_of_which_nothing_can_be_read_stops_the_run(make, spoilt, cache):
    for path in spoilt.glob("val/*"):
        path.write_bytes(b"")
    with pytest.raises(UnreadableImageError, match="none of the 18 test images can be read"):
        list(make(root=spoilt, unreadable="skip", cache=cache)[0].test_batches(5))


def test_a_lost_worker_is_told(make, streams):
    import os
    import signal

    loader, _ = make(workers=1)
    epoch = loader.epoch(streams, 0, 0)
    epoch.batches(0)
    (worker,) = loader.decoding._decoded._iterator._workers

    def kill_and_go_on():
        with telling_lost_workers():  # torch tells by a signal, so at any line
            os.kill(worker.pid, signal.SIGKILL)
            for number in range(1, 1000):
                loader.epoch(streams, 0, number).batches(0)

    with pytest.raises(LostWorkerError):
        kill_and_go_on()


# --- decoded once -----------------------------------------------------------------------------


def test_the_file_holds_the_squares_and_evaluation_is_exact(make):
    cached, split = make(cache="memmap", resize=20)
    streamed, _ = make(resize=20)
    assert isinstance(cached, ResidentLoader)
    assert cached._images.shape == (87, 20, 20, 3)
    assert make()[1].hash != split.hash
    for one, other in zip(cached.test_batches(9), streamed.test_batches(9), strict=True):
        assert torch.equal(one.labels, other.labels)
        assert (one.images - other.images).abs().max() < 1e-6


def test_an_interrupted_or_damaged_file_is_continued(make, tmp_path, monkeypatch):
    monkeypatch.setattr("csa.data.decoded_once.CHUNK", 25)
    _, split = make(cache="memmap")
    path = split.train_images.decoded_file("train")
    assert path.stat().st_size == 87 * 18 * 18 * 3
    whole = path.read_bytes()
    sums = path.with_suffix(".sums").read_text()
    assert len(sums.splitlines()) == 4
    asked = []

    monkeypatch.setattr("csa.data.decoding.decode", lambda file: asked.append(file) or decode(file))

    def again():
        asked.clear()
        pixels, damaged = decoded(split.train_images, split.train_labels, split.classes, workers=0)
        assert pixels.tobytes() == whole
        assert damaged == {}
        return len(asked)

    assert again() == 0
    path.with_suffix(".sums").write_text("".join(sums.splitlines(keepends=True)[:2]) + '{"sha')
    assert again() == 37
    spoilt = bytearray(whole)
    spoilt[25 * 18 * 18 * 3 + 5] ^= 1
    path.write_bytes(spoilt)
    assert again() == 62
    path.unlink()
    assert again() == 87
    assert CHUNK == 256


def test_the_file_is_gone_when_it_could_not_be_made(make, spoilt, tmp_path, monkeypatch):
    with pytest.raises(UnreadableImageError):
        make(root=spoilt, cache="memmap")
    assert not list((tmp_path / "cache").glob("*.uint8"))

    def full(_descriptor, _start, _size):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*cache/\w+.uint8'"):
        make(cache="memmap")
    assert not list((tmp_path / "cache").glob("*.uint8"))


def test_room_is_looked_for_before_anything_is_made(make, tmp_path, monkeypatch):
    split = make(resize=100_000)[1]
    assert cache_faults(split) == []
    files = {"train_images": split.train_images, "test_images": split.test_images}
    split = replace(split, **{name: replace(images, decoded_once=True) for name, images in files.items()})
    (fault,) = cache_faults(split)  # 87 + 18 squares of 30 GB
    assert "dataset.cache=memmap: needs 3,150.0 GB of disk, and" in str(fault)
    assert not list((tmp_path / "cache").glob("*.uint8"))
    (tmp_path / "file").write_text("")
    nowhere = replace(split, train_images=replace(split.train_images, decoded_once=True, cache=tmp_path / "file"))
    assert "cannot be written (File exists)" in str(cache_faults(nowhere)[0])
    made = make(cache="memmap")[1]
    monkeypatch.setattr("shutil.disk_usage", lambda _: None)  # what is there needs no room
    assert cache_faults(made) == []


def test_other_pixels_are_another_file(make, shaped, tmp_path):
    """By content; and by times of change, where files are known by their sizes alone."""
    folder = tmp_path / "mine"
    shutil.copytree(shaped, folder)
    path = min(folder.glob("train/*/*"))
    for way in ("content", "sizes"):
        before = make(root=folder, cache="memmap", identified_by=way)[0]._images
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 255
        path.write_bytes(content)
        after = make(root=folder, cache="memmap", identified_by=way)[0]._images
        assert (before != after).flatten(1).any(1).sum() == 1


def test_two_processes_make_one_file(make, tmp_path):
    split = make()[1]
    files = replace(split.train_images, decoded_once=True)
    with ProcessPoolExecutor(2, mp_context=get_context("fork")) as pool:
        both = [pool.submit(_decoded_bytes, files, split) for _ in range(2)]
    assert both[0].result() == both[1].result()
    assert len((tmp_path / "cache").glob("*.sums").__next__().read_text().splitlines()) == 1


def _decoded_bytes(files, split):
    pixels, _ = decoded(files, split.train_labels, split.classes, workers=0)
    return pixels.tobytes()


# --- the augmentation on the device -----------------------------------------------------------


def plain_draws(**columns):
    """No crop, no flip, no jitter, but for the given columns."""
    draws = torch.tensor([[1.0, 1, 0, 0, 0, 1, 1, 1, 0, 1, 2]])
    for column, value in columns.items():
        draws[0, int(column[1:])] = value
    return draws


@pytest.fixture
def square():
    pixels = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    return torch.from_numpy(np.array(Image.fromarray(pixels).resize((24, 24), Image.Resampling.BICUBIC)))[None]


def test_crop_and_flip_are_torchvision_s(square):
    crop = ResizedCrop(24, 24, (0.08, 1.0), 0.4, flip=True)
    at = torch.zeros(1, dtype=torch.long)
    image = square.permute(0, 3, 1, 2).float() / 255
    assert torch.allclose(crop(square, at, plain_draws()), image, atol=1e-6)
    assert torch.allclose(crop(square, at, plain_draws(_4=1)), image.flip(3), atol=1e-6)
    cut = crop(square, at, plain_draws(_0=12 / 24, _1=16 / 24, _2=4 / 24, _3=6 / 24))
    expected = reference.resized_crop(image, 4, 6, 12, 16, [24, 24], antialias=False)
    assert torch.allclose(cut[..., 2:-2, 2:-2], expected[..., 2:-2, 2:-2], atol=1e-5)  # it reads beyond a crop's edge


@pytest.mark.parametrize(
    ("column", "adjust"),
    [("_5", "adjust_brightness"), ("_6", "adjust_contrast"), ("_7", "adjust_saturation")],
)
def test_colour_jitter_is_torchvision_s(square, column, adjust):
    crop = ResizedCrop(24, 24, (0.08, 1.0), 0.4, flip=True)
    image = square.permute(0, 3, 1, 2).float() / 255
    for factor in (0.6, 1.4):
        found = crop(square, torch.zeros(1, dtype=torch.long), plain_draws(**{column: factor}))
        assert torch.allclose(found, getattr(reference, adjust)(image, factor), atol=1e-3)


def test_crops_have_the_shares_and_aspects_of_the_recipe():
    crop = ResizedCrop(24, 24, (0.08, 1.0), 0.4, flip=True)
    draws = crop.draw(20_000, torch.Generator().manual_seed(0))
    height, width = draws[:, 0], draws[:, 1]
    share, aspect = height * width, width / height
    assert 0.08 <= share.min() < 0.09 < 0.98 < share.max() <= 1 + 1e-6
    assert 0.75 - 1e-5 <= aspect.min() < 0.76 < 1.32 < aspect.max() <= 4 / 3 + 1e-5
    # torchvision's own on a large square; the mean share is below (0.08 + 1) / 2, since wide large crops do not fit
    large = torch.zeros(3, 1, 1).expand(3, 4000, 4000)
    boxes = [v2.RandomResizedCrop(8).make_params([large]) for _ in range(4000)]
    theirs = np.mean([box["height"] * box["width"] / 4000**2 for box in boxes])
    assert float(share.mean()) == pytest.approx(theirs, abs=0.015)
    assert (draws[:, 2] + height).max() <= 1 + 1e-6
    assert float(draws[:, 4].mean()) == pytest.approx(0.5, abs=0.02)
    assert 0.6 <= draws[:, 5:8].min() < 0.61 < 1.39 < draws[:, 5:8].max() <= 1.4
    assert draws[:, 8:].sort(1).values.unique(dim=0).tolist() == [[0, 1, 2]]
