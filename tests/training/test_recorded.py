from __future__ import annotations

import pytest
import torch
from omegaconf import OmegaConf
from whole_records import IDENTITY, whole_result, whole_split

from csa.methods.method import build_method
from csa.tracking.record import Record
from csa.training import checkpoint
from csa.training.recorded import head_network, load_method

SHAPE, MEAN, STD, COUNTS = (1, 8, 8), [0.3], [0.2], [9, 5, 2]


@pytest.fixture(params=["csa", "crt"])
def recorded(request, configuration, tmp_path):
    """A method whose weights and statistics are not the initial ones, and the record of it."""
    config = configuration(f"method={request.param}", "seed=3")
    method = build_method(config, SHAPE, MEAN, STD, COUNTS)
    torch.manual_seed(0)
    for tensor in method.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(tensor + 0.05 * torch.rand_like(tensor))
    record = Record(tmp_path / "run")
    record.begin(OmegaConf.to_yaml(OmegaConf.structured(config)), IDENTITY, "f" * 12)
    checkpoint.save(record.checkpoint, {"method": method.state_dict()})
    split = whole_split(image_shape=list(SHAPE), mean=MEAN, std=STD, counts=COUNTS)
    record.finish(whole_result(split=split), {})
    return record.folder, config, method.eval()


def test_the_method_answers_as_it_did(recorded):
    folder, config, method = recorded
    again, config_again = load_method(folder)
    images = torch.rand(5, *SHAPE)
    assert config_again == config
    assert not again.training
    with torch.no_grad():
        expected, found = method.logits(images), again.logits(images)
    assert found.keys() == expected.keys()
    for head in expected:
        assert torch.equal(found[head], expected[head])


def test_head_network_is_one_function_without_what_it_does_not_need(recorded):
    folder, _, method = recorded
    head = head_network(folder)
    images = torch.rand(5, *SHAPE)
    with torch.no_grad():
        assert torch.equal(head(images), method.logits(images)[method.primary_head])
    names = set(head.state_dict())
    assert "method.backbone.stem.1.running_mean" in names
    assert not [name for name in names if "bank" in name]
    assert head.image_shape == SHAPE


def test_a_run_that_is_not_done_has_no_method(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_method(tmp_path)
