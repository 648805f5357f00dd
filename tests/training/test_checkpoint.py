"""Checkpoints: whole or refused, and the one before is the fallback."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from csa.training import checkpoint


def state(value: float) -> dict:
    return {"method": {"weight": torch.full((64, 7), value)}, "at": {"epoch": int(value)}}


def test_what_was_saved_is_loaded(tmp_path):
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, state(3.0))
    loaded = checkpoint.load(path)
    assert torch.equal(loaded["method"]["weight"], torch.full((64, 7), 3.0))
    assert loaded["at"] == {"epoch": 3}
    assert not list(tmp_path.glob("*.writing"))


def test_the_previous_checkpoint_is_kept_until_the_next_is_whole(tmp_path):
    path = tmp_path / "checkpoint.pt"
    for value in (1.0, 2.0, 3.0):
        checkpoint.save(path, state(value))
    assert checkpoint.load(path)["at"]["epoch"] == 3
    assert checkpoint.load(checkpoint.previous(path))["at"]["epoch"] == 2


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_cut_checkpoint_falls_back(tmp_path, share):
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, state(1.0))
    checkpoint.save(path, state(2.0))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    loaded, problems = checkpoint.load_newest(path)
    assert loaded is not None
    assert loaded["at"]["epoch"] == 1
    assert len(problems) == 1
    assert str(path) in problems[0]


def test_a_flipped_byte_is_noticed_wherever_it_is(tmp_path):
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, state(1.0))
    checkpoint.save(path, state(2.0))
    whole = path.read_bytes()
    for position in [0, len(whole) - 1, *random.Random(0).sample(range(len(whole)), 100)]:
        damaged = bytearray(whole)
        damaged[position] ^= 0x10
        path.write_bytes(bytes(damaged))
        loaded, problems = checkpoint.load_newest(path)
        assert loaded is not None
        assert loaded["at"]["epoch"] == 1
        assert "SHA-256" in problems[0]


def test_what_is_shared_is_one_file_that_any_run_may_write(tmp_path):
    path = tmp_path / "stage.pt"
    with ThreadPoolExecutor(8) as pool:
        for writing in [pool.submit(checkpoint.share, path, state(float(value))) for value in range(30)]:
            writing.result()
    assert checkpoint.load(path)["at"]["epoch"] in range(30)
    assert [one.name for one in tmp_path.iterdir()] == ["stage.pt"]


def test_without_a_checkpoint_there_is_none(tmp_path):
    assert checkpoint.load_newest(tmp_path / "checkpoint.pt") == (None, [])


def test_another_format_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.pt"
    monkeypatch.setattr(checkpoint, "FORMAT", 99)
    checkpoint.save(path, {})
    monkeypatch.undo()
    with pytest.raises(checkpoint.DamagedCheckpointError, match="format 1"):
        checkpoint.load(path)


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (print, ("the trap was sprung",))

    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, {"trap": Trap()})
    with pytest.raises(checkpoint.DamagedCheckpointError, match=r"[Ww]eights.only"):
        checkpoint.load(path)
