"""``python -m csa.records mode=remove`` deletes what it was told to, and nothing else."""

from __future__ import annotations

import io

import pytest
from recorded_runs import begin, finish, named

from csa import records
from csa.tracking import finding, lease
from csa.tracking.files import write_json
from csa.tracking.lease import HeldError, Lease

DONE, FAILED, INTERRUPTED = named("aa"), named("bb"), named("cc")


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    finish(begin(tmp_path / "outputs", DONE))
    begin(tmp_path / "outputs", FAILED).fail({"reason": "it broke"})
    begin(tmp_path / "outputs", INTERRUPTED)
    stages = tmp_path / "outputs" / "dots_lt" / "stages"
    stages.mkdir()
    (stages / "0123.pt").write_bytes(b"shared")
    return tmp_path / "outputs"


def left(root) -> list[str]:
    return sorted(path.name.rpartition("-")[2] for path in root.glob("*/*/*"))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_yes_removes_without_asking(root, capsys):
    assert records.main(["mode=remove", "state=failed", "yes=true"]) == 0
    assert left(root) == sorted(["0123.pt", DONE, INTERRUPTED])
    *_, reason, last = capsys.readouterr().out.splitlines()
    assert (reason, last) == (f"{FAILED} failed: it broke", "removed 1 run")


@pytest.mark.parametrize(
    ("answer", "removed"), [("y\n", True), ("YES\n", True), ("\n", False), ("n\n", False), ("", False)]
)
def test_a_terminal_is_asked(root, monkeypatch, capsys, answer, removed):
    monkeypatch.setattr("sys.stdin", Terminal(answer))
    assert records.main(["mode=remove", "run=aa"]) == 0
    assert (DONE not in left(root)) is removed
    out = capsys.readouterr().out
    assert DONE in out
    assert "remove 1 run for good? [y/N]" in out
    assert out.endswith("removed 1 run\n" if removed else "nothing was removed\n")


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["state=failed"], "yes=false: 1 run would be removed, and there is no terminal to ask at; allowed: yes=true"),
        (["yes=true"], "mode=remove: needs to be told which runs; allowed: run=<fingerprint>, or state=done"),
        (["state=running", "yes=true"], "state=running: what is running is never removed"),
        (["run=x", "yes=true"], "run=x: there is no such run below outputs"),
    ],
)
def test_refusals(root, monkeypatch, capsys, words, problem):
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    with pytest.raises(SystemExit, match="2"):
        records.main(["mode=remove", *words])
    assert problem in capsys.readouterr().err
    assert left(root) == sorted(["0123.pt", DONE, FAILED, INTERRUPTED])


def test_nothing_of_that_state(root, capsys):
    records.main(["mode=remove", "state=failed", "yes=true"])
    capsys.readouterr()
    assert records.main(["mode=remove", "state=failed", "yes=true"]) == 0
    assert capsys.readouterr().out == "no such failed run is recorded below outputs\n"


def test_a_running_run_stays(root, capsys):
    with Lease(root / "dots_lt" / "ce" / f"ir10-tiny-s0-{INTERRUPTED}"):
        with pytest.raises(SystemExit, match="2"):
            records.main(["mode=remove", "run=cc", "yes=true"])
        assert f"run={INTERRUPTED}: is running (process " in capsys.readouterr().err
        # Of those chosen by state it is none.
        records.main(["mode=remove", "state=interrupted", "yes=true"])
    assert INTERRUPTED in left(root)


def test_a_run_that_starts_while_the_question_is_open_stays(root, monkeypatch, capsys):
    (record,) = records._selected(root, {"run": DONE, "state": "any"})
    with Lease(record.folder), pytest.raises(HeldError):
        finding.remove(record, root)
    with Lease(record.folder):
        assert records._removed(record, root).endswith(f"is training {record.folder}")
    assert DONE in left(root)


def test_a_living_run_of_another_machine_stays_and_a_dead_one_goes(root, monkeypatch):
    record = begin(root, "dddd00000004")
    write_json(record.folder / "lease.json", {"host": "elsewhere", "pid": 7, "beat": 3})
    monkeypatch.setattr(lease, "time", _Clock(record.folder / "lease.json"))
    with pytest.raises(HeldError, match="process 7 on elsewhere"):
        finding.remove(record, root)
    lease.time.beating = False
    finding.remove(record, root)
    assert not record.folder.exists()


class _Clock:
    """Time in which another machine renews its lease, as long as it is ``beating``."""

    def __init__(self, path) -> None:
        self.path, self.beating, self.beat = path, True, 3

    def sleep(self, seconds: float) -> None:
        self.beat += 1
        if self.beating:
            write_json(self.path, {"host": "elsewhere", "pid": 7, "beat": self.beat})


def test_what_is_no_run_folder_is_never_touched(root, tmp_path):
    elsewhere = begin(tmp_path / "precious", "eeee00000005")
    (root / "linked").symlink_to(tmp_path / "precious" / "dots_lt")
    (linked,) = records._selected(root, {"run": "eeee", "state": "any"})
    with pytest.raises(finding.NotARunError, match="is a link, or lies behind one"):
        finding.remove(linked, root)
    (elsewhere.folder / "identity.json").write_text('{"fingerprint": "other"}')
    with pytest.raises(finding.NotARunError, match=r"has no identity.json of its own"):
        finding.remove(elsewhere, tmp_path / "precious")
    assert (elsewhere.folder / "config.yaml").exists()


def test_a_removal_that_was_cut_off_leaves_no_run(root, monkeypatch):
    (record,) = records._selected(root, {"run": DONE, "state": "any"})

    def cut_off(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(finding.shutil, "rmtree", cut_off)
    with pytest.raises(KeyboardInterrupt):
        finding.remove(record, root)
    monkeypatch.undo()
    assert not record.folder.exists()
    assert records._selected(root, {"run": "", "state": "done"}) == []
    finding.remove(finish(begin(root, DONE)), root)
    assert left(root) == sorted(["0123.pt", FAILED, INTERRUPTED])
