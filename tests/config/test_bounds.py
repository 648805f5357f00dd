"""Every number of ``conf/`` has bounds, and what lies within them is a run that this machine can hold, or a fault."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args, get_origin, get_type_hints

import pytest
from composed import composer, config_of, of_every_option
from test_identity import leaves

from csa.config.blocks import BOUNDS
from csa.config.faults import UserError
from csa.config.identity import identity, run_folder
from csa.data import dataset
from csa.data.dataset import least_memory, memory_faults
from csa.data.sources import Preview
from csa.request import preflight

EXTREMES = {
    int: (-(2**63), -1, 0, 10**12, 2**63 - 1, 2**63),
    float: (-1e308, -1.0, 0.0, 1e-320, 1e38, 1e308, 10**400),
}
DATA = Preview((900,) * 10, (3, 32, 32))


def number_of(block, field):
    """int or float, and whether the key has a list of them; None of another key."""
    hint = get_type_hints(type(block))[field.name]
    listed = [kind for kind in get_args(hint) if get_origin(kind) is list] if get_origin(hint) is not list else [hint]
    kinds = get_args(listed[0]) if listed else (hint, *get_args(hint))
    return next((kind for kind in kinds if kind in BOUNDS), None), bool(listed)


def test_extreme_values_of_every_number():
    told, seen = 0, set()
    for words in of_every_option():
        for key, block, field, _ in leaves(config_of(*words)):
            kind, listed = number_of(block, field)
            if kind is None or field in seen:  # one that several classes inherit is one
                continue
            seen.add(field)
            for extreme in EXTREMES[kind]:
                told += refused(words, key, kind, [extreme] if listed else extreme, field.metadata)
    assert len(seen) > 90
    assert told > 3 * len(seen)


def refused(words, key, kind, extreme, metadata) -> bool:
    """Whether a value is a fault; what is none is a whole configuration within the bounds."""
    number = extreme[0] if isinstance(extreme, list) else extreme
    at_most = metadata.get("at_most")
    checked = composer().checked([composer().tree.parse(word) for word in (*words, f"{key}={extreme}")])
    if checked.faults:
        assert any(key.rpartition(".")[2] in str(fault) for fault in checked.faults), (key, extreme, checked.faults)
        assert all(len(str(fault)) < 2000 for fault in checked.faults)
        return True
    config = checked.config
    assert abs(number) <= BOUNDS[kind], key
    assert at_most is None or number <= at_most, key
    assert run_folder(config, "ab").parts
    assert identity(config, "ab")
    return any(map(str, memory_faults(config, DATA)))


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (("protocol.batch_size=8000", "method=ce"), "protocol.batch_size"),
        (("method.bank_size=100000",), "method.bank_size"),
        (("protocol.crop_padding=400",), "protocol.crop_padding"),
    ],
)
def test_a_run_that_does_not_fit_is_told_before_it_starts(monkeypatch, tmp_path, words, key):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dataset, "total_memory", lambda: 2e9)
    of_data = ("dataset=cifar10_lt", "protocol.precision=fp32", f"data_dir={tmp_path}", "runtime.device=cpu")
    preflight(of_data)
    with pytest.raises(UserError) as caught:
        preflight([*of_data, *words])
    (fault,) = caught.value.faults
    assert fault.key == key
    assert fault.problem.endswith(" GB of memory or more, and there are 2.0 GB")
    assert fault.allowed.startswith(f"less of {key}")
    monkeypatch.setattr(dataset, "visible_gpus", lambda: ["0"])
    on_gpu = [word.replace("device=cpu", "device=auto") for word in (*of_data, *words)]
    if key == "protocol.crop_padding":  # images are read by the host wherever they go
        with pytest.raises(UserError):
            preflight(on_gpu)
    else:
        preflight(on_gpu)


def test_memory_that_a_run_takes_at_least(configuration):
    words = (
        "dataset=mnist_lt",
        "method=ce",
        "protocol.precision=fp32",
        "dataset.max_per_class=5000",
        "dataset.cap=true",
    )
    config = configuration(*words, "backbone=lenet", "protocol.batch_size=100", of_digits=False)
    assert config.protocol.crop_padding == 0
    known = Preview((6000, 50), (1, 28, 28))
    taken = 5000 + 50
    expected = 0.3e9 + 784 * (6050 + taken) + 784 * 100 * config.backbone.pixel_bytes
    assert least_memory(config, known) == expected
    assert least_memory(config, Preview((6000, 50), (1, 28, 28), in_memory=False)) == 0.3e9 + 784 * 100 * 60
    three_views = replace(config, method=configuration("method=bcl").method)
    assert least_memory(three_views, known) == expected + 2 * 784 * 100 * 60
