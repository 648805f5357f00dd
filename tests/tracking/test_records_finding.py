"""Which run a few digits mean."""

from __future__ import annotations

import shutil
from unittest.mock import Mock

import pytest
from recorded_runs import begin

from csa.config.faults import UserError
from csa.tracking.finding import find_run, fingerprint_of, point_to_latest, runs

FINGERPRINTS = ("aaaa00000001", "aaaa00000002", "bbbb00000003")


@pytest.fixture
def output_root(tmp_path):
    for fingerprint in FINGERPRINTS:
        begin(tmp_path, fingerprint)
    return tmp_path


def test_whole_and_beginning_of_a_fingerprint(output_root):
    for text, fingerprint in (("aaaa00000002", FINGERPRINTS[1]), ("b", FINGERPRINTS[2])):
        assert find_run(output_root, text).folder.name.endswith(fingerprint)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("aaaa", r"run=aaaa: stands for 2 runs; allowed: aaaa00000001 \(.*s0-aaaa00000001\), aaaa00000002 \(.*\)$"),
        ("bbbb00000004", r"there is no such run below .*; did you mean 'bbbb00000003'\? Allowed: a fingerprint or"),
        ("", r"^run: must be given; allowed: a fingerprint or how it begins"),
    ],
)
def test_no_run_or_several(output_root, text, problem):
    with pytest.raises(UserError, match=problem):
        find_run(output_root, text)


@pytest.mark.parametrize("links", [True, False])
def test_the_latest(output_root, links, monkeypatch):
    if not links:
        monkeypatch.setattr("pathlib.Path.symlink_to", Mock(side_effect=OSError("no links here")))
    with pytest.raises(UserError, match="run=latest: there is no such run"):
        find_run(output_root, "latest")
    folders = [find_run(output_root, fingerprint).folder for fingerprint in FINGERPRINTS]
    for folder in folders:
        point_to_latest(output_root, folder)
        assert find_run(output_root, "latest").folder.resolve() == folder
    assert (output_root / "latest").is_symlink() == links
    shutil.rmtree(folders[-1])
    with pytest.raises(UserError, match="run=latest: there is no such run"):
        find_run(output_root, "latest")
    assert len(list(runs(output_root))) == 2


def test_a_data_set_may_be_called_latest(output_root):
    (output_root / "latest" / "ce").mkdir(parents=True)
    point_to_latest(output_root, next(runs(output_root)).folder)
    assert (output_root / "latest" / "ce").is_dir()
    assert [path.name for path in output_root.glob(".latest*")] == []


def test_of_many_candidates_five_are_named(tmp_path):
    for number in range(7):
        begin(tmp_path, f"cccc0000000{number}")
    with pytest.raises(UserError, match=r"stands for 7 runs; .* and 2 more$"):
        find_run(tmp_path, "cc")


def test_nothing_is_recorded(tmp_path):
    with pytest.raises(UserError, match=r"run=a: no run is recorded below"):
        find_run(tmp_path / "nowhere", "a")


def test_only_folders_that_carry_their_own_identity_are_runs(output_root):
    parent = output_root / "dots_lt" / "ce"
    for name, content in (
        ("no-json", "{"),
        ("other-ffff", '{"fingerprint": "eeee"}'),
        ("list-ffff", "[]"),
        ("empty-", '{"fingerprint": ""}'),
        ("number-3", '{"fingerprint": 3}'),
    ):
        (parent / name).mkdir()
        (parent / name / "identity.json").write_text(content)
    (parent / "plain-ffff").mkdir()
    assert [fingerprint_of(record.folder) for record in runs(output_root)] == list(FINGERPRINTS)
