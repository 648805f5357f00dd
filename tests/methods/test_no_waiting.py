"""A step stays on the device: it makes and reads no tensor of the host, needs no value, and keeps its shapes.

And it is the same twice: no sum of it is added up in whatever order a GPU comes to. Meta tensors have a device and
shapes but no values, so that whatever waits for a value fails on them, without a GPU too.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from composed import config_of
from lightning_fabric import Fabric
from test_single_stage import NEED_MORE
from tiny import COUNTS, METHODS, clocks, config_apart, fill, random_batch, small_split, whole_step
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from csa.config.schema import ProtocolConfig
from csa.data.loader import ResidentLoader, augmentation
from csa.methods.cam_bs import draw_moves, matrices, transferred
from csa.methods.context_bank import ContextBank
from csa.methods.losses import Criterion
from csa.methods.method import Method, build_method
from csa.metrics import CALIBRATION_BINS
from csa.training.distributed import ProcessGroup
from csa.training.evaluation import counts
from csa.training.loop import train_step
from csa.training.machine import Machine
from csa.training.state import TrainState

BATCH = 6
META = torch.device("meta")
ADDING = {
    *("index_add", "index_add_", "index_reduce", "index_reduce_", "scatter_reduce", "scatter_reduce_", "put_"),
    *("bincount", "histc", "embedding_dense_backward", "_embedding_bag_dense_backward", "grid_sampler_2d_backward"),
    *("upsample_linear1d_backward", "upsample_bilinear2d_backward", "upsample_bicubic2d_backward"),
    *("_adaptive_avg_pool2d_backward", "adaptive_max_pool2d_backward", "fractional_max_pool2d_backward"),
    *("reflection_pad2d_backward", "replication_pad2d_backward", "nll_loss2d_forward", "max_unpool2d"),
}
"""Operations that add atomically on a GPU, in another order every time: a list of ``use_deterministic_algorithms``."""


def adds_in_any_order(name: str, args: tuple) -> bool:
    if not any(leaf.is_floating_point() for leaf in tree_leaves(args) if isinstance(leaf, Tensor)):
        return False  # whole numbers have one sum
    if name in ("scatter_add", "scatter_add_"):
        _, dim, index, _ = args
        return index.shape[dim] > 1  # what is added to one place alone is added in one order
    if name in ("cumsum", "cumsum_"):
        values, dim = args[:2]
        return values.numel() == values.shape[dim] > 1  # a scan within rows is in order
    return name in ADDING


class OnDevice(TorchDispatchMode):
    """Refuses an operation that takes or gives a tensor of the host, makes one there, or adds in any order."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        update = name in ("_fused_sgd_", "_fused_adamw_")  # changes its arguments; it has no meta kernel
        result = None if update else func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
        if name == "lift_fresh" or any(tensor.device != META for tensor in tensors):
            raise AssertionError(f"{func} has a tensor of the host")
        if adds_in_any_order(name, args):
            raise AssertionError(f"{func} adds in any order")
        return result


@pytest.fixture
def on_device(monkeypatch) -> OnDevice:
    """``with on_device:`` autocast and the fused update take meta tensors too."""
    autocast = torch.autocast
    monkeypatch.setattr(
        torch, "autocast", lambda kind, **how: contextlib.nullcontext() if kind == "meta" else autocast(kind, **how)
    )
    for optimiser in (torch.optim.SGD, torch.optim.Adam):
        module = sys.modules[optimiser.__module__]
        monkeypatch.setattr(module, "_device_dtype_check_for_fused", lambda *_, **__: None)
    return OnDevice()


def state_of(method: Method, stage: int, protocol: ProtocolConfig) -> TrainState:
    machine = Machine(META, "fp32", 1, 0, Fabric(accelerator="cpu"), ProcessGroup(), "eager")
    state = TrainState(method, protocol, machine)
    state.begin_updates(stage)
    for group in state.optimiser.param_groups:
        group["lr"] = torch.tensor(0.0, device=META)  # as on a GPU
    return state


def train_on_device(on_device: OnDevice, *words: str, image_shape: tuple[int, int, int] = (1, 16, 16)) -> list[str]:
    """A step of every phase with its batches and its update, and what comes before a stage and after it.

    Returns the phases.
    """
    config = config_apart("dataset=cifar10_lt", f"protocol.batch_size={BATCH}", *words)
    split = small_split(image_shape)
    method = build_method(config, split.image_shape, split.mean, split.std, split.counts)
    loader = ResidentLoader(split, config.protocol, META, seed=0)
    taken = []
    for stage, about in enumerate(method.stages):
        method.enter_stage(stage)
        fill(method)
        there = deepcopy(method).to(META)  # the host's copy says what the values decide: streams and draws
        with torch.no_grad(), on_device:
            there.eval().prepare(stage, loader)
        state = state_of(there, stage, config.protocol)
        for clock in clocks(method, stage):
            epoch = loader.epoch(method.streams(clock), clock.stage, clock.epoch)
            draws = method.draws(clock, epoch.sizes, torch.Generator().manual_seed(0))
            draws = {name: rows.to(META) for name, rows in draws.items()}
            there.train_stage(stage)
            with on_device:
                state.set_rate(about.lr(clock.epoch))
                step = train_step(state, epoch, 0, {name: rows[0] for name, rows in draws.items()}, clock)
            assert step.loss.shape == ()
            taken.append(method.phase(clock))
        there.eval()
        with on_device:
            (*_, batch) = loader.test_batches(BATCH)
            logits = state.launcher.logits(batch.images)
            counted = [counts(there, outputs, batch.labels) for outputs in logits.values()]
        assert {row.shape for row in counted} == {(len(COUNTS) ** 2 + 2 * CALIBRATION_BINS + 1,)}
        assert {outputs.shape for outputs in logits.values()} == {(len(batch.labels), len(COUNTS))}
        assert set(logits) == set(there.heads)
    return taken


PHASES = {
    "csa": {"uniform", "both"},
    "csa_mixup": {"uniform+mixup", "both+mixup", "both"},
    "cmo": {"plain", "plain+paste"},
    "m2m": {"plain", "translate"},
    "ldam_drw": {"plain", "weighted"},
}


@pytest.mark.parametrize(
    ("name", "backbone"),
    [*((name, "lenet") for name in METHODS if name != "fsa"), *((name, "resnet10") for name in ("ce", *NEED_MORE)),
     ("ce", "resnet32")],
)  # fmt: skip
def test_a_step_stays_on_the_device(name, backbone, on_device):
    short = ["method.iterations=2"] if name == "m2m" else []
    taken = train_on_device(on_device, f"method={name}", f"backbone={backbone}", *short)
    assert taken
    assert PHASES.get(name, set()) <= set(taken)


@pytest.mark.parametrize("lent", [False, True])
def test_but_for_one_look_into_a_bank_that_fills(lent, on_device, monkeypatch):
    looks = []
    monkeypatch.setattr(sys.modules[__name__], "fill", lambda _: None)
    monkeypatch.setattr(ContextBank, "look", lambda bank: looks.append(bank) or lent)
    assert train_on_device(on_device, "method=csa", "backbone=lenet") == ["uniform", "both"]
    assert len(looks) == 1


def test_so_do_the_updates_of_fine_tuning(on_device):
    update = ("protocol.optimizer=adamw", "protocol.layer_decay=0.7", "protocol.clip_norm=1", "protocol.ema=0.99")
    assert train_on_device(on_device, "method=csa", "backbone=lenet", *update) == ["uniform", "both"]


@pytest.mark.parametrize(("augment", "channels"), [("standard", 3), ("auto", 1), ("rand", 3), ("sim", 1), ("sim", 3)])
def test_so_does_the_augmentation_of_imagenet(augment, channels, on_device):
    words = ("protocol=imagenet", "method=ce", "backbone=lenet")
    words += (f"protocol.augment={augment}", *(["protocol.cutout=4"] if augment == "auto" else []))
    assert train_on_device(on_device, *words, image_shape=(channels, 16, 16)) == ["plain"]
    augment = augmentation(config_of(*words).protocol, (channels, 16, 16))
    crops = torch.zeros(BATCH, 16, 16, channels, dtype=torch.uint8, device=META)
    changes = augment.changes(BATCH, torch.Generator()).to(META)
    with on_device:
        assert augment.changed(crops, changes).shape == (BATCH, channels, 16, 16)


def test_so_are_images_made_whose_foreground_is_moved(on_device):
    images = torch.zeros(BATCH, 8, 9, 3, dtype=torch.uint8, device=META)
    masks = torch.zeros(BATCH, 8, 9, dtype=torch.bool, device=META)
    moves = draw_moves(BATCH, torch.Generator()).part(slice(None), META)
    with on_device:
        made = transferred(images, masks, matrices(moves, masks, config_of("method=cam_bs").method))
    assert made.shape == images.shape


def of_host(logits: Tensor) -> Tensor:
    return logits[:, 0].where(logits[:, 0] > 0, torch.ones(()))


def summed_by_class(logits: Tensor) -> Tensor:
    return logits.new_zeros(9, len(COUNTS)).index_add(0, torch.zeros_like(logits[:, 0]).long(), logits)[:, 0]


@pytest.mark.parametrize(
    ("per_image", "complaint"),
    [
        (lambda z: z[:, 0] * z.max().item(), r"item\(\) cannot be called on meta tensors"),
        (lambda z: z[:, 0] if z.max() > 0 else z[:, 1], "cannot be called on meta tensors"),
        (lambda z: z[z[:, 0] > 0], "nonzero"),
        (of_host, "ones.default has a tensor of the host"),
        (lambda z: z * torch.tensor([2.0], device=z.device), "lift_fresh.default has a tensor of the host"),
        (lambda z: z[[0, 1]], "lift_fresh.default has a tensor of the host"),
        (summed_by_class, "index_add.default adds in any order"),
        (lambda z: F.interpolate(z[None], 9, mode="linear"), "upsample_linear1d_backward.default adds in any order"),
        (lambda z: z.gather(1, torch.zeros_like(z).long()), "scatter_add.default adds in any order"),
        (lambda z: z[:, 0].cumsum(0), "cumsum.default adds in any order"),
    ],
)
def test_what_waits_or_adds_in_any_order_is_noticed(
    per_image: Callable[[Tensor], Tensor], complaint, on_device, monkeypatch
):
    monkeypatch.setattr(Criterion, "forward", lambda _, logits, *__: per_image(logits).sum())
    with pytest.raises((AssertionError, RuntimeError), match=complaint):
        train_on_device(on_device, "method=ce", "backbone=lenet")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", METHODS)
def test_a_step_does_not_wait_for_the_gpu(build, name):
    method = build("dataset=cifar10_lt", f"method={name}")
    for stage in range(len(method.stages)):
        method.enter_stage(stage)
        fill(method.to("cuda"))
        for clock in clocks(method, stage):
            batches = {
                key: type(batch)(*(part.to("cuda") for part in batch))
                for key, batch in ((key, random_batch(n)) for n, key in enumerate(method.streams(clock)))
            }
            rows = {key: row[0].to("cuda") for key, row in method.draws(clock, [6], torch.Generator()).items()}
            method.train_stage(stage)
            known = replace(clock, decision=method.foreseen(clock, 6))
            whole_step(method, batches, rows, known).loss.backward()  # libraries choose and load their kernels
            torch.cuda.set_sync_debug_mode("error")
            try:
                whole_step(method, batches, rows, known).loss.backward()
            finally:
                torch.cuda.set_sync_debug_mode("default")
