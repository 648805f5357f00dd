"""What torchvision's and timm's networks have in common as backbones: a map that is found by trying, frozen parts."""

from __future__ import annotations

import pickle
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from torch import Tensor, nn
from torchvision.ops import Permute

from csa.config.faults import Fault, UserError, first_line
from csa.models.backbone import Backbone, Normalize

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TO_CHANNELS_FIRST, TO_CHANNELS_LAST = (0, 3, 1, 2), (0, 2, 3, 1)


class LibraryBackbone(Backbone):
    """``network`` gives the feature. Where it computes piece by piece, its ``pieces`` up to ``end`` give the map.

    The last block begins with the last of these that has more weights than a scale and a shift. What is
    frozen has no gradient, and stays in evaluation mode whatever mode the rest is in.
    """

    initial_weights = "library"
    network: nn.Module
    channels_last = False
    """Whether the network's own map is [B, h, w, F]."""

    def __init__(
        self,
        channels: int,
        height: int,
        width: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        stem: str | None,
        *,
        model: str,
        weights: str | None,
        frozen: Literal["nothing", "trunk", "all"],
        new_last_block: bool,
        drop_path: float | None,
    ) -> None:
        super().__init__()
        self.model = model
        self.normalize = Normalize(mean, std)
        self.end: int | None = None
        self.frozen = "nothing"
        self.network = self.built(weights, (channels, height, width), drop_path)
        self.look((channels, height, width), new_last_block=new_last_block)
        self.frozen = frozen
        self.requires_grad_(requires_grad=True)
        self.train()

    @abstractmethod
    def built(self, weights: str | None, image_shape: tuple[int, int, int], drop_path: float | None) -> nn.Module:
        """The library's ``model`` without its classifier. Raises UserError where the library has no such."""

    @torch.no_grad()
    def look(self, image_shape: tuple[int, int, int], *, new_last_block: bool) -> None:
        """Find out by images what the network is made of.

        Raises:
            UserError: it cannot take such images, or has no last block where that is spoken of.
        """
        images = torch.rand(1, *image_shape)
        self.eval()
        try:
            self.feature_dim = self(images).shape[1]
        except (RuntimeError, AssertionError, ValueError) as error:
            problem = f"cannot take images of {'x'.join(map(str, image_shape[1:]))} pixels ({first_line(error)})"
            raise UserError(Fault("backbone.model", self.model, problem)) from error
        self.has_map = self.find_map(images)
        self.global_pooling = self.has_map and self.pools(self.feature_map(images))
        if new_last_block:
            for module in self.last_block.modules():
                if callable(reset := getattr(module, "reset_parameters", None)):
                    reset()
        self.random = any(_chance(module) > 0 for module in self.network.modules())

    @abstractmethod
    def find_map(self, images: Tensor) -> bool:
        """Whether there is a feature map; sets ``end``, and ``channels_last``."""

    def pools(self, feature_map: Tensor) -> bool:
        """Whether ``embed`` gives the mean of whatever map of this shape."""
        drawn = torch.randn(2, *feature_map.shape[1:])
        mean, embedded = drawn.mean((2, 3)), self.embed(drawn)
        return mean.shape == embedded.shape and torch.allclose(mean, embedded, atol=1e-5)

    # --- pieces -----------------------------------------------------------------------------

    @property
    def pieces(self) -> list[nn.Module]:
        """The network's parts in their order, sequences of layers as their layers."""
        return list(_flat(self.network))

    @property
    def start(self) -> int:
        """Place of the first piece of the last block. Raises UserError where there is none."""
        if self.end is None:
            problem = "does not compute block by block, so it has no last block that is trained, renewed or doubled"
            allowed = "backbone.frozen=nothing or all, backbone.new_last_block=false, another method than bbn"
            raise UserError(Fault("backbone.model", self.model, problem, allowed))
        pieces = self.pieces[: self.end]
        return max(position for position, piece in enumerate(pieces) if any(p.dim() > 1 for p in piece.parameters()))

    def trunk(self, images: Tensor) -> Tensor:
        x: Tensor = self.normalize(images)
        for piece in self.pieces[: self.start]:
            x = piece(x)
        return x

    @property
    def last_block(self) -> nn.Module:
        turned = [Permute(list(TO_CHANNELS_FIRST))] if self.channels_last else []
        return nn.Sequential(*self.pieces[self.start : self.end], *turned)

    def feature_map(self, images: Tensor) -> Tensor:
        self.need_map("a class map")
        return super().feature_map(images)

    def forward(self, images: Tensor) -> Tensor:
        feature: Tensor = self.network(self.normalize(images))
        return feature

    # --- frozen parts -----------------------------------------------------------------------

    def at_rest(self) -> list[nn.Module]:
        if self.frozen == "trunk":
            return self.pieces[: self.start]
        return [self.network] if self.frozen == "all" else []

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        super().requires_grad_(requires_grad)
        for part in self.at_rest():
            part.requires_grad_(False)
        return self

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for part in self.at_rest():
            part.train(False)
        return self


def _flat(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if type(child) in (nn.Sequential, nn.ModuleList):
            yield from _flat(child)
        else:
            yield child


def _chance(module: nn.Module) -> float:
    """By which a module leaves something out in training."""
    chances = (getattr(module, name, 0) for name in ("p", "drop_prob", "dropout"))
    return max((chance for chance in chances if isinstance(chance, float)), default=0)


# --- weights --------------------------------------------------------------------------------


def read_weights(file: Path) -> dict[str, Tensor]:
    """A state dictionary, also one inside a checkpoint (``state_dict``, ``model``) or of a wrapped network.

    Raises:
        UserError: the file holds none.
    """
    try:
        content = _content(file)
    except ImportError as error:
        raise UserError(Fault("backbone.weights", file, "needs safetensors", "pip install 'csa[timm]'")) from error
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise UserError(Fault("backbone.weights", file, f"cannot be read as weights ({first_line(error)})")) from error
    for inner in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(inner), dict):
            content = content[inner]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        problem = "holds no state dictionary, a tensor to each name"
        raise UserError(Fault("backbone.weights", file, problem, "what torch.save(network.state_dict(), file) writes"))
    return {str(name).removeprefix("module."): value for name, value in content.items()}


def _content(file: Path) -> Any:
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(file)
    return torch.load(file, map_location="cpu", weights_only=True)


def does_not_suit(weights: Any, model: str, error: Exception) -> UserError:
    """What torch says of weights that are not this network's."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    problem = f"is not of backbone.model={model} ({(lines[1:] or lines)[0][:300]})"
    return UserError(Fault("backbone.weights", weights, problem))


def not_at_hand(weights: str, url: str, folder: str, error: Exception) -> UserError:
    """What to put where, when there is no download."""
    problem = f"cannot be downloaded ({first_line(error)}); put {url} into {folder}, or anywhere and name the file"
    return UserError(Fault("backbone.weights", weights, problem, "backbone.weights=<file>"))
