from __future__ import annotations

import numpy as np
import pytest
import torch

from csa.data import loader as loaders
from csa.data.batch import Shard
from csa.data.dataset import load_split
from csa.data.loader import Loader, ResidentLoader, batch_sizes


@pytest.fixture
def split(dataset_config, tmp_path):
    return load_split(dataset_config("digits_lt", holdout=2, imbalance_ratio=10), tmp_path, download=False)


@pytest.fixture
def loader(split, protocol_config):
    return ResidentLoader(split, protocol_config(), "cpu", seed=0)


def all_labels(epoch, stream):
    return torch.cat([epoch.batches(step)[stream].labels for step in range(epoch.steps)])


def test_an_epoch_of_the_uniform_stream(loader, split, sampler_config):
    assert isinstance(loader, ResidentLoader)
    epoch = loader.epoch({"uniform": sampler_config("shuffle")}, stage=0, epoch=0)
    assert epoch.steps == 16
    assert epoch.sizes == [32] * 15 + [6]
    batch = epoch.batches(0)["uniform"]
    assert batch.images.shape == (32, 1, 16, 16)
    assert (batch.images.dtype, batch.labels.dtype) == (torch.float32, torch.int64)
    assert 0 <= batch.images.min() < batch.images.max() <= 1
    assert torch.bincount(all_labels(epoch, "uniform")).tolist() == list(split.counts)


def test_without_augmentation_images_are_the_split_s(split, protocol_config, sampler_config):
    loader = ResidentLoader(split, protocol_config(crop_padding=0, flip=False), "cpu", seed=0)
    epoch = loader.epoch({"uniform": sampler_config("shuffle")}, 0, 0)
    drawn = {}
    for step in range(epoch.steps):
        images, labels = epoch.batches(step)["uniform"]
        for image, label in zip((images * 255).round().byte().numpy(), labels.tolist(), strict=True):
            drawn.setdefault(label, []).append(image.transpose(1, 2, 0).tobytes())
    for k in range(10):
        assert sorted(drawn[k]) == sorted(image.tobytes() for image in split.train_images[split.train_labels == k])


def test_epochs_are_replayed_by_their_address(split, protocol_config, sampler_config):
    streams = {"uniform": sampler_config("shuffle"), "balanced": sampler_config("class_aware", images_per_visit=4)}

    def batch(seed=0, stage=0, epoch=3, step=7, name="balanced", streams=streams):
        return ResidentLoader(split, protocol_config(), "cpu", seed).epoch(streams, stage, epoch).batches(step)[name]

    first = batch()
    assert torch.equal(first.images, batch().images)
    assert torch.equal(first.labels, batch().labels)
    for change in ({"seed": 1}, {"stage": 1}, {"epoch": 4}, {"step": 8}, {"name": "uniform"}):
        assert not torch.equal(first.images, batch(**change).images)
    alone = batch(name="uniform", streams={"uniform": streams["uniform"]})
    assert torch.equal(alone.images, batch(name="uniform").images)  # a further stream moves no draw


def test_steps_may_be_asked_for_in_any_order(loader, sampler_config):
    epoch = loader.epoch({"uniform": sampler_config("shuffle")}, 0, 0)
    late = epoch.batches(9)["uniform"].images
    epoch.batches(2)
    assert torch.equal(epoch.batches(9)["uniform"].images, late)


def test_the_sampler_changes_the_batches_that_reach_the_step(loader, sampler_config):
    balanced = loader.epoch({"x": sampler_config("class_aware", images_per_visit=4)}, 0, 0)
    counts = torch.bincount(all_labels(balanced, "x"), minlength=10)
    assert counts.sum() == 486
    assert counts.max() - counts.min() <= 4
    cycle = loader.epoch({"x": sampler_config("class_aware", images_per_visit=4, draws="cycle")}, 0, 0)
    assert sum(cycle.sizes) == 1200


def test_other_streams_follow_the_first(loader, sampler_config):
    shuffle = sampler_config("shuffle")
    longer = loader.epoch({"first": shuffle, "second": sampler_config("shuffle", draws="cycle")}, 0, 0)
    assert len(all_labels(longer, "second")) == 486
    shorter = loader.epoch({"first": sampler_config("shuffle", draws="cycle"), "second": shuffle}, 0, 0)
    positions = shorter.streams["second"].positions
    assert len(positions) == 1200
    rounds = [positions[:486], positions[486:972], positions[972:]]
    assert [len(set(part.tolist())) for part in rounds] == [486, 486, 228]
    assert not torch.equal(rounds[0], rounds[1])
    plain = loader.epoch({"second": shuffle}, 0, 0).streams["second"].positions
    assert torch.equal(rounds[0], plain)


def test_evaluation_batches_are_whole_and_in_order(loader, split, protocol_config):
    def check(batches, images, labels):
        batches = list(batches)
        assert torch.cat([batch.labels for batch in batches]).tolist() == labels.tolist()
        pixels = torch.cat([batch.images for batch in batches]) * 255
        assert np.array_equal(pixels.round().byte().numpy(), images.transpose(0, 3, 1, 2))

    check(loader.test_batches(128), split.test_images, split.test_labels)
    check(loader.holdout_batches(7), split.holdout_images, split.holdout_labels)
    second = ResidentLoader(split, protocol_config(), "cpu", seed=0, shard=Shard(1, 2))
    check(second.holdout_batches(7, whole=True), split.holdout_images, split.holdout_labels)
    assert sum(len(batch.labels) for batch in second.holdout_batches(7)) < len(split.holdout_labels)


def test_without_a_holdout_there_are_no_batches(dataset_config, protocol_config, tmp_path):
    plain = load_split(dataset_config("digits_lt", imbalance_ratio=10), tmp_path, download=False)
    loader: Loader = ResidentLoader(plain, protocol_config(), "cpu", seed=0)
    assert list(loader.holdout_batches(8)) == []


def test_batch_sizes():
    assert batch_sizes(10847, 128) == [128] * 84 + [95]
    assert (len(batch_sizes(12406, 128)), len(batch_sizes(13996, 128)), len(batch_sizes(20431, 128))) == (97, 110, 160)
    assert (len(batch_sizes(10847, 128)), len(batch_sizes(12608, 128)), len(batch_sizes(19573, 128))) == (85, 99, 153)
    assert batch_sizes(256, 128) == [128, 128]
    assert batch_sizes(129, 128) == [128, 1]


def test_the_last_batch_may_be_dropped():
    dropped = [len(batch_sizes(n, 128, drop_last=True)) for n in (12406, 13996, 20431, 10847, 12608, 19573)]
    assert dropped == [96, 109, 159, 84, 98, 152]
    assert batch_sizes(256, 128, drop_last=True) == [128, 128]
    assert batch_sizes(20, 128, drop_last=True) == [20]  # an epoch has a step


def test_a_protocol_that_drops_the_last_batch(split, protocol_config, sampler_config):
    loader = ResidentLoader(split, protocol_config(drop_last=True), "cpu", seed=0)
    assert loader.epoch({"uniform": sampler_config("shuffle")}, 0, 0).sizes == [32] * 15


def test_the_training_set_in_its_order(loader, split):
    batches = list(loader.training_batches(100))
    assert [len(batch.labels) for batch in batches] == [100, 100, 100, 100, 86]
    images = torch.cat([batch.images for batch in batches]).permute(0, 2, 3, 1)
    assert np.array_equal((255 * images).round().to(torch.uint8).numpy(), split.train_images)
    assert np.array_equal(torch.cat([batch.labels for batch in batches]).numpy(), split.train_labels)


def test_added_images_are_drawn_like_the_others(loader, split, protocol_config, sampler_config):
    white = torch.full((300, *split.train_images.shape[1:]), 255, dtype=torch.uint8)
    more = loader.with_images(white, torch.full((300,), 9))
    assert more.counts == (*split.counts[:9], split.counts[9] + 300)
    epoch = more.epoch({"train": sampler_config("power", q=0)}, stage=0, epoch=0)
    assert sum(epoch.sizes) == len(split.train_labels)
    drawn = [epoch.batches(step)["train"] for step in range(epoch.steps)]
    nines = torch.cat([batch.images[batch.labels == 9] for batch in drawn])
    share = float((nines.amax((1, 2, 3)) == 1).float().mean()), float((nines.mean((1, 2, 3)) > 0.7).float().mean())
    assert share[1] > 0.8  # of 312 nines 300 are white
    assert len(loader.epoch({"train": sampler_config("shuffle")}, 0, 0).sizes) == 16


def test_an_epoch_needs_a_stream(loader):
    with pytest.raises(ValueError, match="at least one stream"):
        loader.epoch({}, 0, 0)


def test_images_that_do_not_fit_on_the_device_are_sent_there_without_reading_it(
    split, protocol_config, sampler_config, monkeypatch
):
    streams = {"uniform": sampler_config("shuffle")}
    inside = ResidentLoader(split, protocol_config(), "cpu", 0).epoch(streams, 0, 0)
    monkeypatch.setattr(loaders, "fits", lambda images, _: images.ndim < 4)
    beside = ResidentLoader(split, protocol_config(), "meta", 0)  # of which nothing can be read
    epoch = beside.epoch(streams, 0, 0)
    assert epoch.inputs(0) is None
    images, labels = epoch.batches(0)["uniform"]
    assert (images.device.type, labels.device.type) == ("meta", "meta")
    assert (images.shape, labels.shape) == (inside.batches(0)["uniform"].images.shape, (32,))
    assert next(beside.test_batches(7)).images.device.type == "meta"
    sent = []
    monkeypatch.setattr(loaders, "to_device", lambda held, _: sent.append(held) or held)
    monkeypatch.setattr(ResidentLoader, "on_device", False)
    here = ResidentLoader(split, protocol_config(), "cpu", 0).epoch(streams, 0, 0)
    assert torch.equal(here.batches(3)["uniform"].images, inside.batches(3)["uniform"].images)
    assert torch.equal(here.batches(3)["uniform"].labels, inside.batches(3)["uniform"].labels)
    assert len(sent[0]) == len(sent[1]) == 32


@pytest.mark.gpu
def test_the_device_changes_no_pixel(split, protocol_config, sampler_config):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    streams = {"uniform": sampler_config("shuffle")}
    host, device = (ResidentLoader(split, protocol_config(), d, 0).epoch(streams, 0, 0) for d in ("cpu", "cuda"))
    for step in range(host.steps):
        torch.testing.assert_close(
            device.batches(step)["uniform"].images.cpu(), host.batches(step)["uniform"].images, rtol=0, atol=6e-8
        )
