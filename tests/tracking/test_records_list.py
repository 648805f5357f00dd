"""``python -m csa.records``: what is recorded, and how it stands."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time

import pytest
from recorded_runs import begin, finish, named

from csa import records
from csa.console import duration
from csa.records import described
from csa.tracking.files import bytes_below, write_json
from csa.tracking.lease import Lease

DONE, FAILED = named("aa", method="csa", seed=3), named("bb")
INTERRUPTED, RUNNING = named("cc", seed=1), named("dd", seed=2)


@pytest.fixture
def output_root(tmp_path, monkeypatch):
    """``outputs`` in the working directory, with a run in each state."""
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "outputs"
    finish(begin(root, DONE))
    begin(root, FAILED).fail({"reason": "Traceback (most recent call last):\n  File\nValueError: too [bold]deep\n"})
    begin(root, INTERRUPTED)
    with Lease(begin(root, RUNNING).folder):
        yield root


def lines(capsys) -> list[str]:
    return capsys.readouterr().out.splitlines()


def test_the_table(output_root, capsys):
    assert records.main([]) == 0
    header, *rows = (line.split() for line in lines(capsys))
    assert header == ["fingerprint", "dataset", "method", "state", "seed", "epochs", "all", "%", "size", "age"]
    assert [row[:7] for row in rows[:4]] == [
        [FAILED, "dots_lt", "ce", "failed", "0", "1", "-"],
        [INTERRUPTED, "dots_lt", "ce", "interrupted", "1", "1", "-"],
        [RUNNING, "dots_lt", "ce", "running", "2", "1", "-"],
        [DONE, "dots_lt", "csa", "done", "3", "1", "75.00"],
    ]
    told = [" ".join(row) for row in rows[4:]]
    assert told[0].startswith("4 runs: 1 done, 1 failed, 1 interrupted, 1 running; ")
    assert told[1:] == [
        f"{FAILED} failed: ValueError: too [bold]deep",
        f"{RUNNING} running: process {os.getpid()} on {socket.gethostname()}",
    ]


def test_json(output_root, capsys):
    records.main(["format=json"])
    listed = json.loads(capsys.readouterr().out)
    assert listed["states"] == {"done": 1, "failed": 1, "interrupted": 1, "running": 1}
    (done,) = [run for run in listed["runs"] if run["state"] == "done"]
    assert 0 <= done.pop("age_seconds") < 60
    folder = output_root / "dots_lt" / "csa" / f"ir10-tiny-s3-{DONE}"
    assert done == {
        "fingerprint": DONE, "dataset": "dots_lt", "method": "csa", "seed": 3, "variant": "", "state": "done",
        "epochs": 1, "folder": str(folder.relative_to(output_root.parent)), "accuracy": 75.0, "note": "",
        "bytes": sum(path.stat().st_size for path in folder.iterdir()),
    }  # fmt: skip
    assert listed["bytes"] == sum(run["bytes"] for run in listed["runs"])


def test_a_run_of_a_variant_is_told_apart(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    smoke = named("ee", variant="smoke")
    finish(begin(tmp_path / "outputs", smoke))
    records.main([])
    assert lines(capsys)[-1] == f"{smoke} done: variant smoke"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["state=failed"], [FAILED]),
        (["run=aa"], [DONE]),
        (["run=aa", "state=failed"], []),
        (["state=any"], [FAILED, INTERRUPTED, RUNNING, DONE]),
    ],
)
def test_chosen_by_state_and_fingerprint(output_root, capsys, words, expected):
    records.main([*words, "format=json"])
    assert [run["fingerprint"] for run in json.loads(capsys.readouterr().out)["runs"]] == expected


def test_a_lease_that_another_machine_left_behind_is_no_running_run(tmp_path):
    record = begin(tmp_path, INTERRUPTED)
    path = record.folder / "lease.json"
    write_json(path, {"host": "elsewhere", "pid": 7, "beat": 3})
    assert (described(record)["state"], described(record)["note"]) == ("running", "process 7 on elsewhere")
    hour_ago = time.time() - 3600
    os.utime(path, (hour_ago, hour_ago))
    assert described(record)["state"] == "interrupted"


def test_age_is_the_time_since_it_last_got_further(tmp_path):
    record = begin(tmp_path, INTERRUPTED)
    for path in record.folder.iterdir():
        os.utime(path, (1e9, 1e9))
    (record.folder / "mlflow.json").write_text("{}")
    assert described(record)["age_seconds"] == pytest.approx(time.time() - 1e9, abs=60)
    assert [duration(seconds) for seconds in (0, 89, 90, 7200, 1e6)] == ["0 s", "89 s", "2 min", "2.0 h", "11.6 d"]


def test_a_result_that_cannot_be_read_is_listed_with_the_reason(tmp_path):
    old = finish(begin(tmp_path, DONE))
    (old.folder / "result.json").write_text('{"schema": 0}')
    assert (described(old)["state"], described(old)["accuracy"]) == ("done", None)
    assert "has schema 0, this version reads 2" in described(old)["note"]
    (old.folder / "result.json").write_text("{")
    assert "result.json: cannot be read (JSONDecodeError" in described(old)["note"]
    assert bytes_below(old.folder) > 0


@pytest.mark.parametrize("mode", ["list", "remove", "export", "sync"])
def test_no_outputs_is_no_mistake(tmp_path, monkeypatch, capsys, mode):
    monkeypatch.chdir(tmp_path)
    assert records.main([f"mode={mode}"]) == 0
    assert lines(capsys) == ["there is no folder outputs; nothing was run"]
    (tmp_path / "outputs").mkdir()
    records.main(["state=failed"])
    records.main(["format=json"])
    assert lines(capsys) == [
        "no failed run is recorded below outputs",
        '{"runs": [], "states": {}, "bytes": 0}',
    ]
    assert [path.name for path in tmp_path.rglob("*")] == ["outputs"]


def test_mistakes_are_told_all_at_once(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for words, expected in (
        (
            ["mode=lst", "stat=done"],
            ["mode=lst: is not one of the choices; did you mean 'list'?", "stat=done: unknown"],
        ),
        (
            ["to=x", "yes=true"],
            ["to=x: is not used by mode=list; allowed: run, state, format", "yes=true: is not used"],
        ),
    ):
        with pytest.raises(SystemExit, match="2"):
            records.main(words)
        told = capsys.readouterr().err
        assert all(text in told for text in expected), told


FREE = """
import sys
from csa import records
try:
    records.main(sys.argv[1:])
finally:
    heavy = {"torch", "mlflow", "lightning_fabric", "sklearn", "pandas"} & set(sys.modules)
    print(f"\\nheavy: {sorted(heavy)}")
"""


@pytest.mark.parametrize("words", [["--help"], [], ["mode=export"]])
def test_answers_without_torch(output_root, words):
    done = subprocess.run([sys.executable, "-c", FREE, *words], capture_output=True, text=True, check=True)
    *_, last = done.stdout.splitlines()
    assert last == "heavy: []", done.stdout
    assert ("Housekeeping of recorded runs." in done.stdout) == (words == ["--help"])
