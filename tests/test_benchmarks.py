"""The benchmarks measure what they say: ratios are quotients, and the reference does the product's work."""

from __future__ import annotations

import json
from dataclasses import replace
from statistics import median

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.__main__ import main
from benchmarks.conditions import RandomSource, forward_flops
from benchmarks.order import read_order
from benchmarks.product import rate_together
from benchmarks.reference import ClassAware, ContextShift, Network
from benchmarks.table import Row, measured
from csa.config.faults import UserError
from csa.data.dataset import load_split
from csa.data.loader import ResidentLoader
from csa.methods.background_mask import background_mask, linear_class_map
from csa.methods.mixing import blend_context
from csa.models.networks import ResNet32
from csa.sweep.calibration import ShortLoader

TINY = (
    "dataset.source=csa.data.sources.tiny.TinySource",
    "dataset.profile=balanced",
    "dataset.max_per_class=2",
    "protocol.batch_size=8",
    "runtime.device=cpu",
    "threads=1",
)
CPU = torch.device("cpu")
FACTS = {"schema", "date", "command", "machine", "load_before", "python", "packages", "git_revision", "git_dirty"}
ROW = {"name", "what", "unit", "n", "median", "least", "greatest", "spread", "values", "against", "against_median"}


def test_a_short_measurement_writes_numbers_and_their_quotients(tmp_path, capsys, monkeypatch):
    for name, small in (("EVALUATION_BATCH", 20), ("SIDE", 256)):
        monkeypatch.setattr(f"benchmarks.conditions.{name}", small)
    to = tmp_path / "speed" / "numbers.json"
    main(["rows=bare,product", "steps=2", "repeats=1", f"to={to}", *TINY])
    written = json.loads(to.read_text())
    assert written.keys() == FACTS | {"repeats", "steps", "data", "skipped", "rows"}
    assert {"hardware", "cores", "threads", "precision", "device"} <= written["machine"].keys()
    assert written["machine"]["threads"] == 1
    assert written["steps"] == 2
    rows = {row["name"]: row for row in written["rows"]}
    assert all(row.keys() == ROW | {"ratio"} and row["n"] == 1 and row["median"] > 0 for row in rows.values())
    for row in rows.values():
        assert row["median"] == row["values"][0]
        if row["against"] is None:
            assert row["ratio"] is None
        else:
            assert row["against_median"] == rows[row["against"]]["median"]
            assert row["ratio"] == row["median"] / row["against_median"]
    trained, evaluated = rows["bare_train"]["median"], rows["bare_evaluation"]["median"]
    assert rows["passes_csa"]["median"] == pytest.approx(1 / (1 / trained + 1 / trained + 1 / evaluated))
    assert rows["product_csa"]["against"] == "passes_csa"
    ce = 200 / rows["product_ce"]["median"] + 200 / rows["evaluation_ce"]["median"]
    assert rows["epoch_ce"]["median"] == pytest.approx(ce)
    page = to.with_suffix(".md").read_text()
    place = 1 + list(rows).index("bare_train")
    assert f"| {rows['product_ce']['ratio']:.3g} | {place} |" in page
    assert "2 steps of an epoch, from which seconds of an epoch are EXTRAPOLATED" in page
    assert "2 steps of an epoch" in capsys.readouterr().out


def test_median_spread_and_ratio_by_hand():
    rows = (Row("slow", "slow", "s"), Row("fast", "fast", "s", "slow"))
    slow, fast = measured(rows, {"slow": [4.0, 8.0, 5.0], "fast": [1.0, 3.0, 2.0]})
    assert (slow.median, slow.least, slow.greatest, slow.spread, slow.ratio) == (5.0, 4.0, 8.0, 0.8, None)
    assert (fast.median, fast.against_median, fast.ratio, fast.n) == (2.0, 5.0, 0.4, 3)
    assert fast.median == median(fast.values)


def test_every_mistake_is_told_at_once():
    with pytest.raises(UserError) as raised:
        read_order(["rows=bare,prodcut", "steps=0", "method=ce", "to=a.txt", "repaets=2"])
    told = {fault.key: fault for fault in raised.value.faults}
    assert told.keys() == {"rows", "steps", "method", "to", "repaets"}
    assert told["rows"].nearest == "product"
    assert told["repaets"].nearest == "repeats"


def test_rows_bring_those_that_they_are_compared_with():
    order = read_order(["rows=reference", "steps=3", *TINY])
    assert order.rows == ("machine", "bare", "product", "reference")
    assert (order.steps, order.repeats, order.to) == (3, 5, None)
    assert [config.method.name for config in order.configs.values()] == ["ce", "csa", "csa"]
    assert {config.runtime.threads for config in order.configs.values()} == {1}


def test_runs_at_once_are_timed_while_all_of_them_train():
    early = {"trained": 10, "ends": [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]}
    late = {"trained": 10, "ends": [2.5, 4.5, 6.5]}
    # Together from 2.5 to 5.0: there the early one has the whole epochs that end at 4 and 5, the late one that at 4.5.
    assert rate_together([early, late]) == pytest.approx(10 * 2 / 2.0 + 10 / 2.0)
    assert rate_together([early]) == pytest.approx(10.0)
    with pytest.raises(RuntimeError, match="2 runs at once hardly overlapped"):
        rate_together([early, {"trained": 10, "ends": [4.5, 6.5]}])


def test_the_measured_epochs_meet_no_batch_of_a_new_size():
    config = read_order(["rows=bare", "steps=3", *TINY]).configs["ce"]
    split = load_split(config.dataset, config.data_dir, download=False)
    loader = ShortLoader(ResidentLoader(split, replace(config.protocol, batch_size=48), CPU, 0), None, None)
    streams = {"uniform": config.sampler}
    assert loader.epoch(streams, 0, 0).global_sizes == [48, 48, 8]
    loader.warming = False
    assert loader.epoch(streams, 0, 1).global_sizes == [48, 48, 48, 48, 8]
    loader.steps = 3
    assert loader.epoch(streams, 0, 1).global_sizes == [48, 48, 48]
    assert loader.epoch_images == 200


def test_random_images_have_the_counts_of_the_real_ones(tmp_path):
    config = read_order(["rows=bare", f"data_dir={tmp_path}"]).configs["ce"].dataset
    assert RandomSource().preview(config, tmp_path).class_sizes == (500,) * 100
    object.__setattr__(config, "source", "benchmarks.conditions.RandomSource")
    split = load_split(config, tmp_path, download=False)
    assert (len(split.train_labels), len(split.test_labels)) == (10_847, 10_000)
    assert split.test_images.shape == (10_000, 32, 32, 3)


def test_both_networks_are_the_published_one():
    """68.87 million multiplications and additions."""
    first = 32**2 * 27 * 16
    stages = 10 * 32**2 * 9 * 16**2 + (0.5 + 9) * (16**2 * 9 * 32**2 + 8**2 * 9 * 64**2)
    macs = first + stages + 64 * 100
    assert macs == 68_868_352
    product = nn.Sequential(ResNet32(3, 32, 32, (0.5,) * 3, (0.2,) * 3, None), nn.Linear(64, 100))
    reference = Network(100)
    image = torch.zeros(1, 3, 32, 32)
    assert forward_flops(product, image) == 2 * macs
    assert forward_flops(nn.Sequential(reference, reference.uniform), image) == 2 * macs


# --- the reference does the product's work ----------------------------------------------------


@pytest.fixture
def learner() -> ContextShift:
    torch.manual_seed(0)
    learner = ContextShift(5, read_order(["rows=bare", *TINY]).configs["csa"], CPU)
    learner.delta = 0.2
    return learner


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(8, 3, 16, 16), torch.randint(5, (8,))


@torch.no_grad()
def product_masks(network: Network, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    network.eval()
    feature_map = network.late(network.early(images))
    probability = network.uniform(feature_map.mean((2, 3))).softmax(1)[torch.arange(len(labels)), labels]
    return probability, background_mask(linear_class_map(feature_map, network.uniform.weight, labels), (16, 16))


def test_its_masks_are_the_products(learner, batch):
    images, labels = batch
    expected_probability, expected = product_masks(learner.network, images, labels)
    probability, masks = learner.masks(images, labels)
    torch.testing.assert_close(probability, expected_probability)
    torch.testing.assert_close(masks, expected, atol=1e-5, rtol=0)
    assert masks.std() > 0.1


def test_a_flat_map_gives_a_finite_mask(learner, batch):
    nn.init.zeros_(learner.network.uniform.weight)
    _, masks = learner.masks(*batch)
    assert torch.equal(masks, torch.ones_like(masks))


def test_its_step_fills_the_bank_and_trains_both_branches(learner, batch):
    images, labels = batch
    probability, masks = product_masks(learner.network, images, labels)
    fitted = probability >= learner.delta
    assert 0 < fitted.sum() < 8
    balanced_before = learner.network.balanced.weight.detach().clone()
    uniform_before = learner.network.uniform.weight.detach().clone()
    assert learner.step_of_two((batch, batch)) == 8
    assert torch.equal(learner.bank_images, images[fitted])
    torch.testing.assert_close(learner.bank_masks, masks[fitted], atol=1e-5, rtol=0)
    assert not torch.equal(learner.network.uniform.weight, uniform_before)
    assert torch.equal(learner.network.balanced.weight, balanced_before)  # the bank is not full yet
    learner.delta = 0.0
    learner.step_of_two((batch, batch))
    assert torch.equal(learner.bank_images, images)
    assert not torch.equal(learner.network.balanced.weight, balanced_before)


def test_it_blends_as_the_product_does(learner, batch):
    images, _ = batch
    learner.bank_images, learner.bank_masks = torch.randn(8, 3, 16, 16), torch.rand(8, 1, 16, 16)
    learner.draw = np.random.default_rng(3)
    order = np.random.default_rng(3).permutation(8)
    contexts, masks = learner.bank_images[order], learner.bank_masks[order]
    torch.testing.assert_close(learner.blend(images, 0.7), blend_context(images, contexts, masks, torch.tensor(0.7)))


def test_its_sampler_visits_classes_in_cycles_of_four_images():
    labels = np.repeat([0, 1, 2], [9, 5, 2])
    draws = list(ClassAware(labels))
    assert len(draws) == 16
    visits = labels[draws].reshape(4, 4)
    assert (visits == visits[:, :1]).all()
    assert sorted(visits[:3, 0]) == [0, 1, 2]
    assert sorted(ClassAware(np.zeros(6, int))) == [0, 1, 2, 3, 4, 5]
