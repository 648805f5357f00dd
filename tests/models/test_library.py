"""Networks of torchvision and timm; their weights are made and saved here, nothing is downloaded."""

from __future__ import annotations

from urllib.error import URLError

import pytest
import torch
from composed import config_of
from torch import nn

from csa.config.faults import UserError
from csa.config.schema import LibraryBackbone
from csa.methods.background_mask import background_mask, class_map, gradient_class_map
from csa.models.backbone import build_backbone
from csa.models.heads import linear_head
from csa.models.library import LibraryBackbone as Network

CLASSES = {"torchvision": "TorchvisionNetwork", "timm": "TimmNetwork"}
OPTIONS = {"weights": None, "frozen": "nothing", "new_last_block": False, "drop_path": None}


def network(library: str, model: str, shape: tuple[int, int, int] = (3, 32, 32), **options) -> Network:
    target = f"csa.models.{library}_network.{CLASSES[library]}"
    config = LibraryBackbone(
        name=library, target=target, stem=None, min_size=8, schema="", model=model, **(OPTIONS | options)
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = build_backbone(config, shape, (0.5,) * shape[0], (0.25,) * shape[0])
    assert isinstance(made, Network)
    return made


def images(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("library", "model", "shape", "feature_map", "pooled"),
    [
        ("torchvision", "resnet18", (3, 64, 64), (512, 2, 2), True),
        ("torchvision", "shufflenet_v2_x0_5", (1, 64, 64), (1024, 2, 2), True),  # grey; pools by a mean
        ("torchvision", "mobilenet_v3_small", (3, 64, 64), (576, 2, 2), False),  # a layer before the classifier
        ("timm", "test_resnet", (1, 64, 64), (96, 2, 2), True),
        ("timm", "test_efficientnet", (3, 64, 64), (256, 2, 2), True),
        ("timm", "test_convnext", (3, 64, 64), (64, 2, 2), False),  # normalises what is pooled
        ("timm", "test_mambaout", (3, 64, 64), (64, 2, 2), False),  # channels last
    ],
)
def test_the_map_behind_the_mask_is_found(library, model, shape, feature_map, pooled):
    backbone = network(library, model, shape).eval()
    batch, labels = images(2, *shape), torch.tensor([1, 3])
    with torch.no_grad():
        maps = backbone.feature_map(batch)
        assert maps.shape == (2, *feature_map)
        torch.testing.assert_close(backbone.embed(maps), backbone(batch), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(backbone.last_block(backbone.trunk(batch)), maps)
    assert backbone.global_pooling is pooled
    head = linear_head(backbone, 5)
    found = class_map(backbone, head, maps, labels)
    maps = maps.detach().requires_grad_()
    by_gradient = gradient_class_map(maps, head(backbone.embed(maps)).gather(1, labels[:, None]))
    size = shape[1], shape[2]
    torch.testing.assert_close(background_mask(found, size), background_mask(by_gradient, size), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("library", "model", "side"),
    [("torchvision", "vit_b_32", 32), ("torchvision", "densenet121", 32), ("timm", "test_vit", 32)],
)
def test_a_network_without_such_a_map_has_a_feature_and_says_so(library, model, side):
    backbone = network(library, model, (3, side, side))
    assert backbone(images(2, 3, side, side)).shape == (2, backbone.feature_dim)
    with pytest.raises(UserError, match=f"backbone.model={model}: has no convolutional feature map that is pooled"):
        backbone.feature_map(images(2, 3, side, side))
    with pytest.raises(UserError, match="does not compute block by block"):
        _ = backbone.last_block


# --- weights ----------------------------------------------------------------------------------

SAVED = [("torchvision", "shufflenet_v2_x0_5"), ("timm", "test_resnet"), ("timm", "test_vit")]


def published_like(library: str, model: str, seed: int = 1) -> nn.Module:
    """The library's own network, classifier included, with other weights."""
    import timm
    import torchvision

    torch.manual_seed(seed)
    whole = torchvision.models.get_model(model) if library == "torchvision" else timm.create_model(model)
    return whole.eval()


@pytest.mark.parametrize(("library", "model"), SAVED)
@pytest.mark.parametrize("form", ["plain", "checkpoint", "safetensors"])
def test_weights_come_from_a_file(library, model, form, tmp_path):
    whole = published_like(library, model)
    side = whole.default_cfg["input_size"][1] if library == "timm" else 32
    file = tmp_path / ("weights.safetensors" if form == "safetensors" else "weights.pt")
    if form == "safetensors":
        from safetensors.torch import save_file

        save_file(whole.state_dict(), file)
    else:
        state = whole.state_dict()
        wrapped = {"epoch": 3, "state_dict": {f"module.{name}": value for name, value in state.items()}}
        torch.save(state if form == "plain" else wrapped, file)
    backbone = network(library, model, (3, side, side), weights=str(file)).eval()
    (*_, last) = (module for module in whole.modules() if isinstance(module, nn.Linear))
    batch = images(2, 3, side, side)
    with torch.no_grad():
        logits = nn.functional.linear(backbone(batch), last.weight, last.bias)
        torch.testing.assert_close(logits, whole((batch - 0.5) / 0.25), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("library", "model"), SAVED[:2])
def test_what_is_wrong_with_a_file_is_said(library, model, tmp_path):
    other = published_like("timm", "test_vit" if library == "timm" else "test_resnet").state_dict()
    for name, content, told in (
        ("other.pt", other, f"is not of backbone.model={model}"),
        ("list.pt", [1, 2], "holds no state dictionary"),
    ):
        torch.save(content, tmp_path / name)
        with pytest.raises(UserError, match=f"{name}: {told}"):
            network(library, model, weights=str(tmp_path / name))
    (tmp_path / "cut.pt").write_bytes((tmp_path / "other.pt").read_bytes()[:1000])
    with pytest.raises(UserError, match=r"cut\.pt: cannot be read as weights"):
        network(library, model, weights=str(tmp_path / "cut.pt"))


def test_without_a_download_the_fault_says_what_to_put_where(monkeypatch, tmp_path):
    from timm.models import _builder

    def offline(*_, **__):
        raise URLError("no network")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    monkeypatch.setattr(_builder, "load_state_dict_from_hf", offline)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(UserError) as info:
        network("torchvision", "resnet18", weights="IMAGENET1K_V1")
    assert str(info.value) == (
        "backbone.weights=IMAGENET1K_V1: cannot be downloaded (<urlopen error no network>); "
        f"put https://download.pytorch.org/models/resnet18-f37072fd.pth into {tmp_path}/checkpoints, "
        "or anywhere and name the file; allowed: backbone.weights=<file>"
    )
    with pytest.raises(
        UserError, match=r"put https://huggingface.co/timm/test_vit.r160_in1k/resolve/main/model.safetens"
    ):
        network("timm", "test_vit", weights="r160_in1k")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/resnet18-f37072fd.pth").write_bytes(b"half of it")
    with pytest.raises(UserError, match=r"resnet18-f37072fd\.pth is damaged"):
        network("torchvision", "resnet18", weights="IMAGENET1K_V1")


@pytest.mark.parametrize(
    ("library", "options", "told"),
    [
        ("torchvision", {"model": "resnet81"}, "torchvision has no such network; did you mean 'resnet18'"),
        ("torchvision", {"model": "squeezenet1_0"}, "does not end in a linear layer"),
        ("torchvision", {"model": "resnet18", "drop_path": 0.1}, "resnet18 has none in torchvision; allowed: null"),
        ("torchvision", {"model": "resnet18", "weights": "IMAGENET1K_V9"}, "did you mean 'IMAGENET1K_V1'"),
        ("torchvision", {"model": "swin_t", "shape": (2, 32, 32)}, "cannot take images of 2 channels; allowed: 1 or 3"),
        ("timm", {"model": "tset_vit"}, "timm has no such network; did you mean 'test_vit'"),
        (
            "timm",
            {"model": "test_vit", "weights": "r16_in1k"},
            "timm has no such weights of test_vit; did you mean 'r160_in1k'",
        ),
        ("timm", {"model": "test_vit", "shape": (3, 8, 8)}, "cannot take images of 8x8 pixels"),
        ("timm", {"model": "test_vit", "frozen": "trunk"}, "does not compute block by block"),
    ],
)
def test_mistakes_are_told(library, options, told):
    with pytest.raises(UserError, match=told):
        network(library, **options)


# --- frozen parts -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frozen", "norms", "others"),
    [("trunk", {"layer4.1.bn1", "layer4.1.bn2"}, {"layer4.1.conv1", "layer4.1.conv2"}), ("all", set(), set())],
)
def test_what_is_frozen_stays_so_whatever_a_method_does(frozen, norms, others):
    backbone = network("torchvision", "resnet18", frozen=frozen)
    nn.ModuleList([backbone.requires_grad_(True)]).train()
    modules = dict(backbone.network.named_modules())
    assert {name for name, m in modules.items() if m.training and isinstance(m, nn.BatchNorm2d)} == norms
    learning = {name.rpartition(".")[0] for name, p in backbone.network.named_parameters() if p.requires_grad}
    assert learning == norms | others


def test_a_new_last_block_is_drawn_anew_and_nothing_else(tmp_path):
    file = tmp_path / "weights.pt"
    torch.save(published_like("torchvision", "resnet18").state_dict(), file)
    old, new = (network("torchvision", "resnet18", weights=str(file), new_last_block=fresh) for fresh in (False, True))
    states = old.network.state_dict(), new.network.state_dict()
    changed = {name for name in states[0] if not torch.equal(states[0][name], states[1][name])}
    assert changed == {"layer4.1.conv1.weight", "layer4.1.conv2.weight"}


def test_of_resnet152_a_new_last_block_is_trained_as_released():
    config = config_of("backbone=resnet152_last_block", "backbone.weights=null").backbone
    backbone = build_backbone(config, (3, 64, 64), (0.5,) * 3, (0.5,) * 3)
    trained = {name: p.numel() for name, p in backbone.network.named_parameters() if p.requires_grad}
    assert {name.rpartition(".")[0].rpartition(".")[0] for name in trained} == {"layer4.2"}
    assert sum(trained.values()) == 2 * 2048 * 512 + 9 * 512 * 512 + 2 * (512 + 512 + 2048)
    assert sum(p.numel() for p in backbone.parameters()) + 2048 * 1000 + 1000 == 60_192_808  # torchvision's resnet152
    assert backbone.global_pooling


def test_drop_path_is_given_on_and_known_to_draw():
    assert not network("timm", "test_vit").random
    dropping = network("timm", "test_vit", drop_path=0.5).train()
    assert dropping.random
    batch = images(8, 3, 32, 32)
    torch.manual_seed(3)
    first = dropping(batch)
    assert not torch.equal(dropping(batch), first)
    torch.manual_seed(3)
    assert torch.equal(dropping(batch), first)
