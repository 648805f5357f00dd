"""Under bf16 the classifiers compute in float32, and what they say is never rounded, in training and in evaluation."""

from __future__ import annotations

import pytest
import torch
from tiny import COUNTS, METHODS, clocks, fill, random_batch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Unrounded(TorchDispatchMode):
    """Refuses a rounded tensor [B, K] but for gradients, and counts the matrix products that give one in float32."""

    classifications = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if torch._C._current_graph_task_id() != -1:  # in a backward pass
            return result
        logits = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor) and leaf.shape[1:] == (len(COUNTS),)]
        if any(leaf.dtype in (torch.bfloat16, torch.float16) for leaf in logits):
            raise AssertionError(f"{func} rounds logits")
        is_product = func.overloadpacket.__name__ in ("mm", "addmm")
        self.classifications += sum(is_product and leaf.dtype == torch.float32 for leaf in logits)
        return result


@pytest.mark.parametrize("name", METHODS)
def test_logits_are_float32(build, name):
    backbone = "resnet32" if name == "fsa" else "lenet"
    method = build("dataset=cifar10_lt", f"method={name}", f"backbone={backbone}", image_shape=(1, 12, 12))
    for stage in range(len(method.stages)):
        method.enter_stage(stage)
        fill(method)
        for clock in clocks(method, stage):
            batches = {key: random_batch(n, image_shape=(1, 12, 12)) for n, key in enumerate(method.streams(clock))}
            rows = {key: row[0] for key, row in method.draws(clock, [6], torch.Generator().manual_seed(0)).items()}
            method.train_stage(stage)
            with Unrounded() as seen:
                with torch.autocast("cpu", torch.bfloat16):
                    loss = method(batches, rows, clock).loss
                loss.backward()
            assert loss.dtype == torch.float32
            assert seen.classifications
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), Unrounded() as seen:
            logits = method.eval().logits(random_batch(0, image_shape=(1, 12, 12)).images)
        assert {outputs.dtype for outputs in logits.values()} == {torch.float32}
        assert seen.classifications
