"""A trained method, back from its record."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from csa.config.faults import Fault, UserError
from csa.config.recorded import read_recorded
from csa.data.dataset import load_split
from csa.methods.method import build_method
from csa.tracking.run import Run
from csa.training import checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from csa.config.schema import Config
    from csa.data.split import Split
    from csa.methods.method import Method


class HeadNetwork(nn.Module):
    """Images [B, C, H, W] in [0, 1] to the logits [B, K], in float32, of one head."""

    def __init__(self, method: Method, head: str, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.method = method
        self.head = head
        self.image_shape = image_shape

    def forward(self, images: Tensor) -> Tensor:
        return self.method.logits(images)[self.head].float()


def load_method(folder: Path) -> tuple[Method, Config]:
    """The method of a finished run with its trained weights, in evaluation mode on the processor.

    Raises:
        FileNotFoundError: the run is not done, or its checkpoint is gone.
        UserError: the record is damaged or written by another schema, or the checkpoint is not whole.
    """
    run = Run(folder)
    split = run.result["split"]
    config = read_recorded(folder / "config.yaml")
    channels, height, width = split["image_shape"]
    config = replace(config, backbone=config.backbone.without_weights())
    method = build_method(config, (channels, height, width), split["mean"], split["std"], split["counts"])
    for stage in range(len(method.stages)):
        method.enter_stage(stage)
    try:
        method.load_state_dict(checkpoint.load(run.checkpoint)["method"])
    except checkpoint.DamagedCheckpointError as error:
        raise UserError(Fault("run", folder.name, f"its model cannot be read ({error})")) from error
    return method.eval(), config


def head_network(folder: Path, head: str = "") -> HeadNetwork:
    """The network of a finished run as one function from images to logits; raises what ``load_method`` raises.

    head: the one that stands for the run where none is named. What its computation does not touch (a context bank) is
    left out.
    """
    method, _ = load_method(folder)
    channels, height, width = Run(folder).result["split"]["image_shape"]
    network = HeadNetwork(method, head or method.primary_head, (channels, height, width)).eval()
    touched = _Touched()
    with torch.no_grad(), touched:
        network(torch.zeros(2, channels, height, width))
    for module in network.modules():
        for tensors in (module._parameters, module._buffers):
            unused = [name for name, tensor in tensors.items() if tensor is not None and id(tensor) not in touched.ids]
            for name in unused:
                del tensors[name]
    return network


def recorded_split(run: Run, data_dir: str, download: bool) -> Split:
    """The data that a finished run was trained and tested on. Raises UserError where they are not what they were."""
    dataset, known = read_recorded(run.folder / "config.yaml").dataset, run.result["split"]["hash"]
    split = load_split(dataset, data_dir, download=download)
    if split.hash != known:
        problem = f"data set {dataset.name!r} is not what it was: its hash was {known}"
        raise UserError(Fault("run", run.folder.name, f"{problem}, now {split.hash}", "the data of the run"))
    return split


class _Touched(TorchFunctionMode):
    """Notes every tensor that goes into a torch function, or whose shape is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: set[int] = set()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.ids |= {id(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        return func(*args, **(kwargs or {}))
