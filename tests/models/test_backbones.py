from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from csa.config.faults import UserError
from csa.config.locations import shipped
from csa.config.schema import BackboneConfig
from csa.models.backbone import Backbone, build_backbone
from csa.models.heads import linear_head

TARGETS = {
    "lenet": ("csa.models.networks.LeNet", None, 12),
    "resnet32": ("csa.models.networks.ResNet32", None, 8),
    "resnet10": ("csa.models.torchvision_network.ResNet10", "auto", 16),
    "resnet18": ("csa.models.torchvision_network.ResNet18", "auto", 16),
    "resnet50": ("csa.models.torchvision_network.ResNet50", "auto", 16),
}


def backbone(name: str, shape: tuple[int, int, int], stem: str | None = None) -> Backbone:
    target, default, min_size = TARGETS[name]
    config = BackboneConfig(name=name, target=target, stem=stem or default, min_size=min_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_backbone(config, shape, (0.5,) * shape[0], (0.25,) * shape[0])


@pytest.mark.parametrize("name", TARGETS)
def test_memory_of_a_pixel_is_what_a_step_keeps_at_least(name):
    """By it a run that cannot fit is refused, so it is never too much; too little by a quarter at most."""
    shape = {"lenet": (1, 28, 28), "resnet32": (3, 32, 32)}.get(name, (3, 224, 224))
    network, kept = backbone(name, shape), {}
    own = {held.untyped_storage().data_ptr() for held in (*network.parameters(), *network.buffers())}

    def keep(held):
        if held.untyped_storage().data_ptr() not in own:
            kept[held.untyped_storage().data_ptr()] = held.untyped_storage()
        return held

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda held: held):
        output = network(torch.rand(2, *shape))
    measured = sum(storage.nbytes() for storage in kept.values()) / (2 * shape[1] * shape[2])
    assert 0.75 * measured < shipped("backbone", name)["pixel_bytes"] < measured
    del output


def size(*modules: nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


@pytest.mark.parametrize(
    ("name", "shape", "feature_map"),
    [
        ("lenet", (1, 28, 28), (16, 10, 10)),
        ("lenet", (3, 12, 13), (16, 2, 2)),
        ("resnet32", (3, 32, 32), (64, 8, 8)),
        ("resnet32", (1, 8, 9), (64, 2, 3)),
        ("resnet10", (3, 32, 32), (512, 4, 4)),
        ("resnet10", (3, 96, 96), (512, 3, 3)),
        ("resnet50", (1, 16, 16), (2048, 2, 2)),
    ],
)
def test_shapes(name: str, shape: tuple[int, int, int], feature_map: tuple[int, int, int]):
    network = backbone(name, shape)
    maps = network.feature_map(torch.rand(2, *shape))
    assert maps.shape == (2, *feature_map)
    assert float(maps.detach().min()) >= 0
    assert network.embed(maps).shape == (2, network.feature_dim)
    assert network.global_pooling == (name != "lenet")
    if network.global_pooling:
        torch.testing.assert_close(network.embed(maps), maps.mean((2, 3)))


def test_a_head_s_logits_are_not_rounded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head = linear_head(backbone("resnet32", (3, 32, 32)), 100)
        feature = torch.rand(4096, 64).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        logits = head(feature)
    assert torch.equal(logits, F.linear(feature.float(), head.weight, head.bias))
    first, second = logits.topk(2).values.unbind(1)
    assert int((first == second).sum()) == 0
    assert int((first.bfloat16() == second.bfloat16()).sum()) > 5


def test_parameter_counts():
    network = backbone("resnet32", (3, 32, 32))
    assert size(network) == 463_504
    assert size(network, linear_head(network, 10)) == 464_154
    assert size(network, linear_head(network, 100)) == 470_004
    # 6*25+6, 16*6*25+16, 400*120+120, 120*84+84, 84*2+2
    assert size(backbone("lenet", (1, 28, 28))) == 156 + 2_416 + 48_120 + 10_164 + 170
    large = backbone("resnet50", (3, 224, 224))
    assert size(large, nn.Linear(2048, 1000)) == 25_557_032  # torchvision's resnet50
    assert size(backbone("resnet18", (3, 224, 224)), nn.Linear(512, 1000)) == 11_689_512
    assert size(backbone("resnet10", (3, 224, 224)), nn.Linear(512, 1000)) == 5_418_792


@pytest.mark.parametrize(
    ("stem", "side", "out"), [("auto", 64, 8), ("auto", 65, 3), ("large", 64, 2), ("small", 65, 9)]
)
def test_stems(stem: str, side: int, out: int):
    network = backbone("resnet10", (3, side, side), stem)
    assert network.feature_map(torch.rand(1, 3, side, side)).shape[2:] == (out, out)


def test_normalisation_is_the_first_layer():
    network = backbone("resnet32", (3, 8, 8)).eval()
    images = torch.rand(2, 3, 8, 8)
    expected = network.stages(network.stem((images - 0.5) / 0.25))
    torch.testing.assert_close(network.feature_map(images), expected)


def test_shortcut_subsamples_and_pads_channels_on_both_sides():
    block = backbone("resnet32", (3, 8, 8)).stages[1][0]
    x = torch.rand(1, 16, 4, 4)
    shortcut = block.shortcut(x)
    assert shortcut.shape == (1, 32, 2, 2)
    assert torch.equal(shortcut[:, 8:24], x[:, :, ::2, ::2])
    assert not shortcut[:, :8].any()
    assert not shortcut[:, 24:].any()


@pytest.mark.parametrize("name", ["lenet", "resnet32"])
def test_weights_are_kaiming_normal(name: str):
    network = backbone(name, (3, 32, 32))
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear) and module.weight.numel() > 2000:
            fan_in = module.weight[0].numel()
            assert float(module.weight.detach().std()) == pytest.approx(math.sqrt(2 / fan_in), rel=0.05)


def test_heads_follow_their_backbone():
    kaiming, library = (
        linear_head(backbone("resnet32", (3, 8, 8)), 500),
        linear_head(backbone("resnet10", (3, 16, 16)), 500),
    )
    assert float(kaiming.weight.detach().std()) == pytest.approx(math.sqrt(2 / 64), rel=0.05)
    assert float(library.weight.detach().abs().max()) <= 1 / math.sqrt(512)
    assert float(kaiming.bias.detach().abs().max()) <= 1 / 8


@pytest.mark.parametrize("name", ["resnet32", "resnet10"])
def test_channels_last_all_the_way(name: str):
    network = backbone(name, (3, 16, 16)).to(memory_format=torch.channels_last)
    maps = network.feature_map(torch.rand(2, 3, 16, 16).to(memory_format=torch.channels_last))
    assert maps.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", list(TARGETS))
def test_a_gradient_reaches_every_parameter(name: str):
    network = backbone(name, (1, 16, 16))
    (network(torch.rand(4, 1, 16, 16)) * torch.randn(4, network.feature_dim)).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("shape", [(1, 11, 28), (1, 28, 8)])
def test_images_too_small_are_a_fault(shape: tuple[int, int, int]):
    with pytest.raises(UserError, match=rf"backbone=lenet: cannot take images of {shape[1]}x{shape[2]} pixels") as info:
        backbone("lenet", shape)
    assert info.value.faults[0].allowed == "sides of at least 12 pixels"


@pytest.mark.parametrize(
    "target", ["csa.models.nothing.Net", "csa.models.networks.Lenet", "no dots", "csa.models.networks"]
)
def test_a_target_that_is_no_class_is_a_fault(target: str):
    config = BackboneConfig(name="mine", target=target, stem=None, min_size=8)
    with pytest.raises(UserError, match=r"backbone\.target="):
        build_backbone(config, (3, 8, 8), (0.5,) * 3, (0.5,) * 3)
