"""Networks of torchvision (``backbone=torchvision``), and ResNet-10, -18 and -50 of its blocks."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from csa.config.faults import Fault, UserError, nearest
from csa.config.locations import weights_file
from csa.models.backbone import Normalize, StagedBackbone
from csa.models.library import LibraryBackbone, does_not_suit, not_at_hand, read_weights

BEHIND_THE_MAP = nn.AdaptiveAvgPool2d, nn.Flatten, nn.Dropout, nn.Linear, nn.Identity
CLASSES = 1000


class TorchvisionNetwork(LibraryBackbone):
    """Any that ends in a linear layer. Grey images are given to all three channels.

    Its feature map is what its pooling to a fixed size reads, or its classifier, which pools by itself then.
    """

    def built(self, weights: str | None, image_shape: tuple[int, int, int], drop_path: float | None) -> nn.Module:
        channels, height, _ = image_shape
        if channels not in (1, 3):
            raise UserError(Fault("backbone", "torchvision", f"cannot take images of {channels} channels", "1 or 3"))
        network = _built(self.model, height, drop_path)
        head = _take_off_head(network, self.model)
        if weights is not None:
            _load(network, self.model, weights, head)
        return network

    def find_map(self, images: Tensor) -> bool:
        pieces = self.pieces
        self.end = next(position for position, piece in enumerate(pieces) if isinstance(piece, BEHIND_THE_MAP))
        try:
            if torch.allclose(self.embed(self.last_block(self.trunk(images))), self(images), atol=1e-5):
                return True
        except (RuntimeError, TypeError, AssertionError, NotImplementedError):
            pass  # its pieces are not computed one after the other
        self.end = None
        return False

    def trunk(self, images: Tensor) -> Tensor:
        return super().trunk(_in_colour(images))

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(_in_colour(images))

    def embed(self, feature_map: Tensor) -> Tensor:
        x = feature_map
        for piece in self.pieces[self.end :]:
            x = piece(x.flatten(1) if isinstance(piece, nn.Linear) else x)
        return x.mean((2, 3)) if x.dim() == 4 else x


def _in_colour(images: Tensor) -> Tensor:
    return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images


def _built(model: str, side: int, drop_path: float | None) -> nn.Module:
    if model not in (known := models.list_models(module=models)):
        problem, allowed = "torchvision has no such network", "resnet18, convnext_tiny, efficientnet_b0, vit_b_16, ..."
        raise UserError(Fault("backbone.model", model, problem, allowed, nearest(model, known)))
    options: dict[str, Any] = {} if drop_path is None else {"stochastic_depth_prob": drop_path}
    if model.startswith("vit_"):
        options["image_size"] = side
    try:
        network: nn.Module = models.get_model(model, weights=None, num_classes=CLASSES, **options)
    except TypeError as error:
        raise UserError(Fault("backbone.drop_path", drop_path, f"{model} has none in torchvision", "null")) from error
    if getattr(network, "aux_logits", False):
        problem = "has further classifiers inside, which csa does not train"
        raise UserError(Fault("backbone.model", model, problem, "another network"))
    return network


def _take_off_head(network: nn.Module, model: str) -> str:
    """Put an identity in the place of the classifier; returns its name."""
    linear: list[str] = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not linear or network.get_submodule(linear[-1]).out_features != CLASSES:
        raise UserError(Fault("backbone.model", model, "does not end in a linear layer", "another network"))
    network.set_submodule(linear[-1], nn.Identity())
    return linear[-1]


def _load(network: nn.Module, model: str, weights: str, head: str) -> None:
    file = weights_file(weights)
    state = read_weights(file) if file is not None else _published(model, weights)
    try:
        network.load_state_dict({name: value for name, value in state.items() if not name.startswith(f"{head}.")})
    except RuntimeError as error:
        raise does_not_suit(weights, model, error) from error


def _published(model: str, weights: str) -> dict[str, Tensor]:
    """By torchvision's name, from the hub's cache or else downloaded there."""
    known = models.get_model_weights(model).__members__
    if weights not in known:
        allowed = ", ".join([*known, "a file", "null"])
        problem = f"torchvision has no such weights of {model}"
        raise UserError(Fault("backbone.weights", weights, problem, allowed, nearest(weights, known)))
    published = known[weights]
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(published.url).name
    if cached.is_file() and not _is_whole(cached):
        problem = f"{cached} is damaged: its content is not what its name says"
        raise UserError(Fault("backbone.weights", weights, problem, "remove it, so that it is downloaded again"))
    try:
        state: dict[str, Tensor] = published.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise not_at_hand(weights, published.url, str(cached.parent), error) from error
    return state


def _is_whole(file: Path) -> bool:
    """Its name ends in the first digits of its SHA-256."""
    digits = re.search(r"-([0-9a-f]{8,})\.", file.name)
    with file.open("rb") as stream:
        return digits is None or hashlib.file_digest(stream, "sha256").hexdigest().startswith(digits[1])


# --- ResNet-10, -18, -50 --------------------------------------------------------------------


SMALL_IMAGE = 64
"""Largest side in pixels for which ``stem=auto`` is the small one."""


class TorchvisionResNet(StagedBackbone):
    """Of torchvision's blocks, so many in each of four stages.

    stem: small (3x3, stride 1, no pooling), large (7x7, stride 2, max-pooling; torchvision's own) or auto.
    """

    initial_weights = "library"
    block: type[BasicBlock | Bottleneck]
    blocks: tuple[int, int, int, int]

    def __init__(
        self, channels: int, height: int, width: int, mean: tuple[float, ...], std: tuple[float, ...], stem: str | None
    ) -> None:
        super().__init__()
        network = ResNet(self.block, list(self.blocks))
        self.feature_dim = network.fc.in_features
        self.normalize = Normalize(mean, std)
        small = stem == "small" or (stem in {"auto", None} and max(height, width) <= SMALL_IMAGE)
        kernel, stride = (3, 1) if small else (7, 2)
        convolution = nn.Conv2d(channels, 64, kernel, stride, padding=kernel // 2, bias=False)
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")  # as torchvision's
        pool = nn.Identity() if small else network.maxpool
        self.stem = nn.Sequential(convolution, network.bn1, network.relu, pool)
        self.stages = nn.Sequential(network.layer1, network.layer2, network.layer3, network.layer4)


class ResNet10(TorchvisionResNet):
    """512-d feature, as ResNet-18's."""

    block, blocks = BasicBlock, (1, 1, 1, 1)


class ResNet18(TorchvisionResNet):
    block, blocks = BasicBlock, (2, 2, 2, 2)


class ResNet50(TorchvisionResNet):
    """2048-d feature."""

    block, blocks = Bottleneck, (3, 4, 6, 3)
