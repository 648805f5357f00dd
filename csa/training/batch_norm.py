"""Batch-norm: its statistics; and what it cannot train on, one image that the network maps to one place."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import SyncBatchNorm, _BatchNorm

from csa.config.faults import Fault, UserError
from csa.methods.method import Clock

if TYPE_CHECKING:
    from csa.data.loader import Loader
    from csa.methods.method import Method


def batch_statistics(method: nn.Module) -> list[Tensor]:
    """Batch-norm's running means and variances."""
    norms = [module for module in method.modules() if isinstance(module, _BatchNorm)]
    found = [statistic for norm in norms for statistic in (norm.running_mean, norm.running_var)]
    return [statistic for statistic in found if statistic is not None]


def refuse_single_images_of_any_stage(method: Method, loader: Loader, image_shape: tuple[int, int, int]) -> None:
    """``refuse_single_images`` for all stages of a method that has entered none: before hours go into the first."""
    probe = deepcopy(method)
    for stage in range(len(probe.stages)):
        probe.enter_stage(stage)
        refuse_single_images(probe, stage, loader, image_shape)


def refuse_single_images(method: Method, stage: int, loader: Loader, image_shape: tuple[int, int, int]) -> None:
    """Of a method that has entered ``stage``: the steps of its epochs are as many images as batch-norm takes.

    Raises:
        UserError: a step has one image, and a batch-norm that trains in this stage gets one value of it.
    """
    epochs = method.stages[stage].epochs
    sizes = loader.epoch(method.streams(Clock(stage, 0, epochs)), stage, 0).sizes if epochs else []
    if 1 in sizes and _single_values(method, stage, image_shape):
        problem = f"leaves one image to one of the {len(sizes)} steps of an epoch, which batch-norm cannot train on: "
        problem += "the network's last feature map is of one pixel"
        allowed = "another size, or protocol.drop_last=true for a last batch"
        raise UserError(Fault("protocol.batch_size", max(sizes), problem, allowed))


@torch.no_grad()
def _single_values(method: Method, stage: int, image_shape: tuple[int, int, int]) -> bool:
    """Whether a batch-norm that trains gets a single value of each channel of one image."""
    single = False

    def look(norm: nn.Module, given: tuple[Any, ...]) -> None:
        nonlocal single
        single |= given[0].numel() == given[0].shape[1]

    method.train_stage(stage)
    training = (module for module in method.modules() if isinstance(module, _BatchNorm) and module.training)
    hooks = [norm.register_forward_pre_hook(look) for norm in training if not isinstance(norm, SyncBatchNorm)]
    method.eval()  # so that no statistic changes
    method.logits(torch.zeros(1, *image_shape, device=next(method.parameters()).device))
    for hook in hooks:
        hook.remove()
    return single
