"""Networks of timm (``backbone=timm``, ``pip install "csa[timm]"``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from csa.config.faults import Fault, UserError, nearest
from csa.config.locations import weights_file
from csa.models.library import (
    TO_CHANNELS_FIRST,
    TO_CHANNELS_LAST,
    LibraryBackbone,
    does_not_suit,
    not_at_hand,
    read_weights,
)

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType


class TimmNetwork(LibraryBackbone):
    """Its feature map is what timm pools, where that is one; a network of tokens has none."""

    network: Any  # with timm's own methods

    def built(self, weights: str | None, image_shape: tuple[int, int, int], drop_path: float | None) -> nn.Module:
        timm, model = _timm(), self.model
        if not timm.is_model(model):
            problem, near = "timm has no such network", nearest(model, timm.list_models())
            raise UserError(Fault("backbone.model", model, problem, "what timm.list_models() lists", near))
        channels, *size = image_shape
        known = timm.get_pretrained_cfg(model)
        options: dict[str, Any] = {"num_classes": 0, "in_chans": channels}
        options |= {} if drop_path is None else {"drop_path_rate": drop_path}
        options |= {"img_size": size} if known is not None and known.fixed_input_size else {}
        try:
            if weights is None:
                network: nn.Module = timm.create_model(model, **options)
                return network
            file = weights_file(weights)
            return _published(timm, model, weights, options) if file is None else _of_file(timm, model, file, options)
        except TypeError as error:
            if drop_path is None:
                raise
            raise UserError(Fault("backbone.drop_path", drop_path, f"{model} has none in timm", "null")) from error

    def find_map(self, images: Tensor) -> bool:
        x = self.normalize(images)
        found = self.network.forward_features(x)
        if found.dim() != 4:
            return False
        self.channels_last = getattr(self.network, "output_fmt", "NCHW") == "NHWC"
        for position, piece in enumerate(self.pieces):
            try:
                x = piece(x)
            except (RuntimeError, TypeError, AssertionError, NotImplementedError):
                break  # its pieces are not computed one after the other
            if isinstance(x, Tensor) and x.shape == found.shape and torch.allclose(x, found, atol=1e-5):
                self.end = position + 1
                break
        return True

    def feature_map(self, images: Tensor) -> Tensor:
        if self.end is not None:
            return super().feature_map(images)
        self.need_map("a class map")
        found: Tensor = self.network.forward_features(self.normalize(images))
        return found.permute(TO_CHANNELS_FIRST) if self.channels_last else found

    def embed(self, feature_map: Tensor) -> Tensor:
        own = feature_map.permute(TO_CHANNELS_LAST) if self.channels_last else feature_map
        feature: Tensor = self.network.forward_head(own)
        return feature


def _timm() -> ModuleType:
    try:
        import timm
    except ImportError as error:
        raise UserError(Fault("backbone", "timm", "is not installed", "pip install 'csa[timm]'")) from error
    return timm


def _of_file(timm: ModuleType, model: str, file: Path, options: dict[str, Any]) -> nn.Module:
    """Fitted to the size and the channels of the images as timm does it with its own."""
    known = timm.get_pretrained_cfg(model)
    heads = known.classifier if known is not None else ()
    parts = tuple(f"{head}." for head in ((heads,) if isinstance(heads, str) else heads or ()))
    state = {name: value for name, value in read_weights(file).items() if not name.startswith(parts)}
    overlay = {"state_dict": state, "custom_load": False, "num_classes": 0, "label_offset": 0}
    try:
        network: nn.Module = timm.create_model(model, pretrained=True, pretrained_cfg_overlay=overlay, **options)
    except (RuntimeError, KeyError, AssertionError) as error:
        raise does_not_suit(file, model, error) from error
    return network


def _published(timm: ModuleType, model: str, weights: str, options: dict[str, Any]) -> nn.Module:
    """By timm's tag, from the hub's cache or else downloaded there."""
    tags = [name.partition(".")[2] for name in timm.list_pretrained(f"{model}.*")]
    if weights not in tags:
        allowed = ", ".join([*tags, "a file", "null"])
        problem = f"timm has no such weights of {model}"
        raise UserError(Fault("backbone.weights", weights, problem, allowed, nearest(weights, tags)))
    try:
        network: nn.Module = timm.create_model(f"{model}.{weights}", pretrained=True, **options)
    except (OSError, RuntimeError, ValueError) as error:
        repository = timm.get_pretrained_cfg(f"{model}.{weights}").hf_hub_id
        url = f"https://huggingface.co/{repository}/resolve/main/model.safetensors"
        raise not_at_hand(weights, url, "the hub's cache", error) from error
    return network
