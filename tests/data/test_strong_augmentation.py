from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torchvision.transforms.autoaugment import AutoAugment, AutoAugmentPolicy, InterpolationMode, RandAugment, _apply_op
from torchvision.transforms.v2 import functional as reference

from csa.data.augmentation import CropFlip, ResizedCrop, SimAugment, blurred, sim_view, turned_hue
from csa.data.dataset import load_split
from csa.data.loader import ResidentLoader, augmentation
from csa.data.samplers import View
from csa.data.strong_augmentation import GREY_FILL, Changed, Cutout, Policy, operated

AUTO = Policy.auto((32, 32))
NAMES = AUTO.names
STRENGTHS = {
    "ShearX": 0.2,
    "ShearY": -0.17,
    "TranslateX": 9.7,
    "TranslateY": -5.4,
    "Rotate": 20.0,
    "Brightness": -0.4,
    "Color": 0.6,
    "Contrast": 0.5,
    "Sharpness": 0.7,
    "Posterize": 5.0,
    "Solarize": 110.0,
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(size: int, channels: int = 3, side: int = 32) -> torch.Tensor:
    """Smooth ones, of whole grey values, float32; the first of one value."""
    coarse = torch.rand(size, channels, 4, 4, generator=generator())
    fine = torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear")
    images = (150 * fine + 50 + 9 * torch.randn(fine.shape, generator=generator(1))).clamp(0, 255).floor()
    images[0] = 77
    return images


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_an_operation_is_torchvision_s(name, channels):
    images, strength = pictures(5, channels), STRENGTHS.get(name, 0.0)
    fill = [GREY_FILL] * channels
    expected = _apply_op(images.to(torch.uint8), name, strength, InterpolationMode.NEAREST, fill).float()
    if channels == 1 and name == "Color":
        expected = images
    found = operated(images, NAMES, torch.full((5,), float(NAMES.index(name))), torch.full((5,), strength))
    apart = (found - expected).abs()
    if name in ("ShearX", "ShearY", "Rotate"):  # a place between two pixels is rounded either way
        assert (apart > 0).float().mean() < 0.01
    else:
        assert apart.max() <= (name in ("Sharpness", "AutoContrast", "Contrast", "Brightness", "Color"))
        assert (apart > 0).float().mean() < 0.05
    assert torch.equal(found, found.round())
    assert name == "Identity" or (channels == 1 and name == "Color") or not torch.equal(found, images)


def test_every_image_has_operations_of_its_own():
    images = pictures(60).contiguous(memory_format=torch.channels_last) / 255
    draws = AUTO.draw(60, generator())
    together = AUTO(images, draws)
    assert together.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(together, torch.cat([AUTO(images[i : i + 1], draws[i : i + 1]) for i in range(60)]))
    kinds, strengths = (half.tolist() for half in draws.chunk(2, dim=1))
    for number in range(0, 60, 7):
        expected = (255 * images[number : number + 1]).round().to(torch.uint8)
        for kind, strength in zip(kinds[number], strengths[number], strict=True):
            fill = [GREY_FILL] * 3
            expected = _apply_op(expected, NAMES[int(kind)], strength, InterpolationMode.NEAREST, fill)
        assert ((255 * together[number] - expected[0].float()).abs() <= 3).float().mean() > 0.98


def test_operations_are_drawn_as_often_as_the_policy_says():
    size = 100_000
    kinds, strengths = AUTO.draw(size, generator()).chunk(2, dim=1)
    known = AutoAugment(AutoAugmentPolicy.CIFAR10)
    levels = known._augmentation_space(10, (32, 32))
    for slot in range(2):
        for name in NAMES[1:]:
            mine = kinds[:, slot] == NAMES.index(name)
            chance = sum(row[slot][1] for row in known.policies if row[slot][0] == name) / len(known.policies)
            assert abs(mine.float().mean() - chance) < 5 * (chance * (1 - chance) / size) ** 0.5 + 1e-9
            used = [row[slot][2] for row in known.policies if row[slot][0] == name and row[slot][2] is not None]
            told = {abs(float(levels[name][0][level])) for level in used} | {0.0}
            drawn = strengths[mine, slot]
            assert set(drawn.abs().tolist()) <= told
            if levels[name][1] and len(drawn) and drawn.abs().max() > 0:
                assert abs((drawn[drawn != 0] < 0).float().mean() - 0.5) < 0.05


def test_rand_augment_draws_any_operation_of_one_strength():
    policy = Policy.rand((32, 32), operations=3, level=9)
    draws = policy.draw(20_000, generator())
    assert draws.shape == (20_000, policy.columns) == (20_000, 6)
    share = torch.bincount(draws[:, :3].long().flatten(), minlength=14) / 60_000
    assert (share - 1 / 14).abs().max() < 0.006
    shear = draws[:, 3:][draws[:, :3] == policy.names.index("ShearX")]
    assert shear.unique().tolist() == pytest.approx([-0.09, 0.09])
    levels, _ = RandAugment()._augmentation_space(31, (32, 32))["Posterize"]
    assert draws[:, 3:][draws[:, :3] == policy.names.index("Posterize")].unique().tolist() == [float(levels[9])]


def test_cutout_blackens_a_square_as_far_as_it_is_inside():
    cutout = Cutout(8, 10, side=4)
    draws = cutout.draw(2000, generator())
    assert [draws[:, n].unique().tolist() for n in (0, 1)] == [list(range(8)), list(range(10))]
    images = cutout(torch.ones(2, 3, 8, 10), torch.tensor([[3.0, 5.0], [0.0, 9.0]]))
    expected = torch.ones(2, 3, 8, 10)
    expected[0, :, 1:5, 3:7] = 0
    expected[1, :, :2, 7:] = 0
    assert torch.equal(images, expected)


def test_what_follows_moves_no_number_of_the_crop(protocol_config):
    protocol = protocol_config("cifar", augment="auto", cutout=16)
    strong = augmentation(protocol, (3, 32, 32))
    assert isinstance(strong, Changed)
    plain = augmentation(protocol_config("cifar"), (3, 32, 32))
    assert isinstance(plain, CropFlip)
    assert torch.equal(strong.draw(50, generator())[:, :3], plain.draw(50, generator()).float())
    images = torch.randint(0, 256, (9, 32, 32, 3), dtype=torch.uint8, generator=generator())
    draws = strong.draw(9, generator())
    draws[:, 3:5], draws[:, 7:] = 0, -100  # the identity twice, and a square far outside
    cut = plain(plain.prepare(images), torch.arange(9), draws[:, :3].long())
    assert torch.allclose(strong(strong.prepare(images), torch.arange(9), draws), cut, atol=1e-6)


# --- SimAugment -----------------------------------------------------------------------------


def test_hue_is_torchvision_s():
    images, shifts = torch.rand(5, 3, 7, 6, generator=generator()), (0.1, -0.1, 0.03, 0.0, -0.07)
    images[4] = 0.3  # grey
    turned = turned_hue(images, torch.tensor(shifts))
    for image, shift, found in zip(images, shifts, turned, strict=True):
        assert torch.allclose(found, reference.adjust_hue(image, shift), atol=1e-5)


def test_a_blur_of_its_own_for_every_image():
    spot = torch.zeros(3, 1, 9, 9)
    spot[:, :, 4, 4] = 1
    found = blurred(spot, torch.tensor([1.0, 1e-3, 0.5]))
    weights = torch.exp(-0.5 * torch.arange(-4.0, 5) ** 2)
    assert torch.allclose(found[0, 0], torch.outer(weights, weights) / weights.sum() ** 2, atol=2e-4)
    assert torch.equal(found[1], spot[1])
    assert found[2, 0, 4, 4] > found[0, 0, 4, 4]
    assert torch.allclose(
        blurred(torch.full((2, 3, 5, 6), 0.4), torch.tensor([2.0, 0.1])), torch.full((2, 3, 5, 6), 0.4)
    )


def test_a_view_of_sim_augment_is_a_resized_crop_and_what_was_drawn_for_it():
    sim, crop = SimAugment(16, 16, (0.2, 1.0), 0.4, True), ResizedCrop(16, 16, (0.2, 1.0), 0.4, True)
    draws = sim.draw(10_000, generator())
    unjittered = (draws[:, 5:8] == 1).all(1)
    hue, grey, blur = draws[:, -3:].unbind(1)
    assert torch.equal(unjittered, hue == 0)
    for happened, chance in ((~unjittered, 0.8), (grey == 1, 0.2), (blur > 0.01, 0.5)):
        assert abs(happened.float().mean() - chance) < 5 * (chance * (1 - chance) / 10_000) ** 0.5
    assert hue.abs().max() <= 0.1
    assert 0.1 <= blur[blur > 0.01].min() < blur.max() <= 2
    images = torch.randint(0, 256, (40, 20, 20, 3), dtype=torch.uint8, generator=generator())
    found = sim(images, torch.arange(40), draws[:40])
    plain = (hue[:40] == 0) & (grey[:40] == 0) & (blur[:40] < 0.01)
    cut = crop(images, torch.arange(40), draws[:40, :11])
    assert plain.any()
    assert torch.allclose(found[plain], cut[plain], atol=1e-5)
    in_grey = grey[:40] == 1
    assert torch.allclose(found[in_grey].amax(1), found[in_grey].amin(1))
    assert not torch.allclose(found[~plain], cut[~plain], atol=0.01)


def test_a_step_has_several_views_of_one_draw(dataset_config, protocol_config, sampler_config, tmp_path):
    split = load_split(dataset_config("digits_lt"), tmp_path, download=False)
    shuffle = sampler_config("shuffle")
    streams = {"train": shuffle, "again": View.again("train", "protocol"), "other": View.again("train", "sim")}
    loader = ResidentLoader(split, protocol_config(crop_padding=2), "cpu", 0)
    epoch = loader.epoch(streams, 0, 1)
    batches = epoch.batches(3)
    labels = batches["train"].labels
    assert all(torch.equal(batch.labels, labels) for batch in batches.values())
    assert all(torch.equal(epoch.streams[name].positions, epoch.streams["train"].positions) for name in streams)
    assert not torch.equal(batches["train"].images, batches["again"].images)
    alone = loader.epoch({"train": shuffle}, 0, 1).batches(3)["train"]
    assert torch.equal(batches["train"].images, alone.images)  # a view moves no other number
    assert torch.equal(batches["other"].images, loader.epoch(streams, 0, 1).batches(3)["other"].images)
    assert {batch.images.shape for batch in batches.values()} == {(32, 1, 16, 16)}
    sim, stream = sim_view(protocol_config(), split.image_shape), epoch.streams["other"]
    part = slice(3 * 32, 4 * 32)
    images = torch.from_numpy(np.ascontiguousarray(split.train_images))
    assert torch.equal(sim(images, stream.positions[part], stream.crops[part]), batches["other"].images)
    strong = ResidentLoader(split, replace(protocol_config(), augment="rand", cutout=4), "cpu", 0)
    assert not torch.equal(strong.epoch(streams, 0, 1).batches(3)["train"].images, batches["train"].images)
