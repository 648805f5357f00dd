"""``python -m`` without the seconds that its imports take: forked from a process that has made them.

Where this is installed, ``subprocess`` starts ``[sys.executable, "-m", ...]`` so, in the tests and in every process
that was started so itself (a sweep's runs). What it starts is a process like any other: a child of its
caller, with arguments, environment, folder, streams, session, signals and exit status of its own. ``-c`` and
scripts start afresh: what a start imports is tested with those.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib
import io
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

PRELOADED = (
    *("torch._dynamo", "lightning_fabric", "sklearn.datasets", "mlflow", "pandas", "hydra"),
    *("mlflow.store.tracking.sqlalchemy_store", "sqlalchemy.dialects.sqlite"),
    *("matplotlib.figure", "matplotlib.backends.backend_agg", "hydra_plugins.hydra_optuna_sweeper.optuna_sweeper"),
    *("hydra_plugins.hydra_ray_launcher.ray_launcher", "hydra_plugins.hydra_submitit_launcher.submitit_launcher"),
    *("csa.entry", "csa.training.session", "csa.summary", "csa.tracking.watched", "csa.tracking.mlflow.mirror"),
    *("csa.data.dataset", "csa.sweep.sweeper", "csa.sweep.processes", "csa.tracking.mlflow.tracker"),
)
IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
SET_CHILD_SUBREAPER = 36  # prctl(2)
MOST_BYTES = 2**20

_afresh = subprocess.Popen._execute_child  # type: ignore[attr-defined]
_asking = threading.Lock()


@dataclass(frozen=True)
class Asked:
    """words: the module and its arguments; parent: the number of who asks."""

    words: list[str]
    cwd: str
    environment: dict[str, str]
    new_session: bool
    parent: int


def install() -> None:
    """From now on, in this process."""
    if sys.platform == "linux":
        subprocess.Popen._execute_child = _execute_child  # type: ignore[attr-defined]


def _execute_child(self: Any, args: Any, *given: Any) -> None:
    """In place of a private method of Popen: the one place that all its ways come through."""
    executable, preexec_fn, _close_fds, pass_fds, cwd, env, _info, _flags, shell, *streams = given[:15]
    words = [] if isinstance(args, str | bytes | os.PathLike) else [os.fsdecode(word) for word in args]
    module = words[2:] if words[1:2] == ["-u"] else words[1:]
    if words[:1] != [sys.executable] or module[:1] != ["-m"] or executable or preexec_fn or pass_fds or shell:
        _afresh(self, args, *given)
        return
    environment = {os.fsdecode(key): os.fsdecode(value) for key, value in (os.environ if env is None else env).items()}
    asked = Asked(module[1:], str(Path(cwd or ".").absolute()), environment, bool(given[-2]), os.getpid())
    own = [stream if stream != -1 else place for place, stream in enumerate((streams[0], streams[3], streams[5]))]
    self.pid = _ask(asked, own)
    self._child_created = True
    self._close_pipe_fds(*streams)


def _ask(asked: Asked, streams: list[int]) -> int:
    """The number of a child that does it: the orphan of a child of the server, adopted by this process."""
    with _asking:
        server = _server[0] if _server else _start_server()
        _server[:] = [server]
        ctypes.CDLL(None).prctl(SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        socket.send_fds(server, [json.dumps(asdict(asked)).encode()], streams)
        answer = server.recv(64)
        ctypes.CDLL(None).prctl(SET_CHILD_SUBREAPER, 0, 0, 0, 0)
    return int(answer)


def _start_server() -> socket.socket:
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with its:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        command = [sys.executable, __file__, str(its.fileno())]
        _started.append(subprocess.Popen(command, pass_fds=[its.fileno()], stdin=subprocess.DEVNULL, env=environment))
    return ours


_started: list[subprocess.Popen[bytes]] = []
"""Kept: Python warns of one that is forgotten while it lives."""
_server: list[socket.socket] = []
"""The one, once there is one."""


# --- the server's side, and that of what it starts ------------------------------------------


def serve(requests: socket.socket) -> None:
    """Fork a process for each request; returns in that process alone, which has become what was asked for."""
    while True:
        request, streams, _, _ = socket.recv_fds(requests, MOST_BYTES, 3)
        if not request:
            os._exit(0)
        between = os.fork()
        if not between:
            if os.fork():
                os._exit(0)
            become(Asked(**json.loads(request)), streams, requests)
            return
        os.waitpid(between, 0)
        for stream in streams:
            os.close(stream)


def become(asked: Asked, streams: list[int], requests: socket.socket) -> None:
    """With a server of its own for what it starts itself: a process that has threads is not to be forked."""
    while os.getppid() != asked.parent:
        if not Path(f"/proc/{asked.parent}").exists():  # killed while it asked
            os._exit(0)
        time.sleep(0.001)
    requests.send(str(os.getpid()).encode())
    requests.close()
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if not os.fork():
        ours.close()
        for stream in streams:
            os.close(stream)
        serve(its)
        return
    its.close()
    _server[:] = [ours]
    if asked.new_session:
        os.setsid()
    for number in IGNORED:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(asked.cwd)
    before = paths_of(os.environ)
    sys.path[:] = [asked.cwd, *paths_of(asked.environment), *sys.path[1 + len(before) :]]
    os.environ.clear()
    os.environ.update(asked.environment)
    open_streams(streams)
    sys.argv[1:] = asked.words


def paths_of(environment: Mapping[str, str]) -> list[str]:
    return [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]


def open_streams(streams: list[int]) -> None:
    """As Python's start does."""
    unbuffered = bool(os.environ.get("PYTHONUNBUFFERED"))
    for place, name in enumerate(("stdin", "stdout", "stderr")):
        os.dup2(streams[place], place)
        os.close(streams[place])
        stream = io.TextIOWrapper(
            open(place, "wb" if place else "rb", closefd=False),  # noqa: SIM115 (as long as the process)
            encoding="utf-8", errors="backslashreplace" if place == 2 else "strict",
            line_buffering=place == 2 or os.isatty(place), write_through=unbuffered and place > 0,
        )  # fmt: skip
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def command_status() -> int:
    """What the command ends with; of a signal minus its number."""
    try:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        return -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    return 0


def end(status: int) -> None:
    """As Python does, but for taking apart all that was imported, which takes longer than most commands."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    if status < 0:
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


if __name__ == "__main__":
    for name in PRELOADED:
        importlib.import_module(name)
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    gc.freeze()  # shared with the children as long as nobody counts it
    serve(socket.socket(fileno=int(sys.argv[1])))
    install()
    del sys.argv[0]
    end(command_status())
