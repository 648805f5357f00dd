"""A forked command cannot be told from one that Python has started."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

SHOWN = """
import json, os, sys, subprocess
import beside
told = {"name": __name__, "words": sys.argv[1:], "cwd": os.getcwd(), "given": os.environ.get("GIVEN"),
        "home": os.environ.get("HOME"), "read": sys.stdin.read(), "parent": os.getppid(), "pid": os.getpid(),
        "leads": os.getsid(0) == os.getpid(), "open": sorted(os.listdir("/proc/self/fd"))[:3], "beside": beside.X}
if len(sys.argv) > 1:
    inner = subprocess.run([sys.executable, "-m", "shown"], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    told["inner"] = json.loads(inner.stdout)
print(json.dumps(told))
print("aside", file=sys.stderr)
"""
ENDS = """
import atexit, os, signal, sys, threading, time
atexit.register(print, "the end")
how = sys.argv[1]
if how == "thread":
    threading.Thread(target=lambda: (time.sleep(0.1), print("thread"))).start()
elif how == "raise":
    raise ValueError("of mine")
elif how == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
elif how == "interrupt":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background is started without
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)
else:
    sys.exit(int(how) if how.isdigit() else how)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name, text in {"shown": SHOWN, "ends": ENDS, "beside": "X = 5"}.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.setenv("GIVEN", "of the test")
    return tmp_path


@pytest.mark.parametrize("afresh", [[], ["-B"]])
def test_it_has_what_it_is_given_and_so_have_its_children(folder, afresh):
    done = subprocess.run(
        [sys.executable, *afresh, "-m", "shown", "a b", "c"], cwd=folder, env={**os.environ, "GIVEN": "here"},
        input="typed", capture_output=True, text=True, check=True, start_new_session=True,
    )  # fmt: skip
    told = json.loads(done.stdout)
    inner = told.pop("inner")
    pid = told.pop("pid")
    assert told == {
        "name": "__main__", "words": ["a b", "c"], "cwd": str(folder), "given": "here", "home": os.environ.get("HOME"),
        "read": "typed", "parent": os.getpid(), "leads": True, "open": ["0", "1", "2"], "beside": 5,
    }  # fmt: skip
    assert done.stderr == "aside\n"
    assert (inner["words"], inner["parent"], inner["given"], inner["leads"]) == ([], pid, "here", False)
    assert inner["read"] == ""


@pytest.mark.parametrize("afresh", [[], ["-B"]])
@pytest.mark.parametrize(
    ("how", "status", "out", "err"),
    [
        ("0", 0, "the end\n", ""),
        ("75", 75, "the end\n", ""),
        ("a word", 1, "the end\n", "a word\n"),
        ("thread", 0, "thread\nthe end\n", ""),
        ("raise", 1, "the end\n", "ValueError: of mine\n"),
        ("kill", -signal.SIGKILL, "", ""),
        ("interrupt", -signal.SIGINT, "the end\n", "KeyboardInterrupt\n"),
    ],
)
def test_it_ends_as_python_does(folder, afresh, how, status, out, err):
    done = subprocess.run(
        [sys.executable, *afresh, "-m", "ends", how], cwd=folder, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (status, out)
    assert done.stderr.endswith(err) if err else not done.stderr
