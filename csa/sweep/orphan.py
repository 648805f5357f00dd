"""A run does not outlive the sweep that started it: when the sweep is killed, its runs save and stop."""

from __future__ import annotations

import os
import signal
import threading
import time

PARENT = "CSA_SWEEP_PROCESS"
LOOK_SECONDS = 0.5


def end_with_sweep() -> None:
    """In a run that a sweep started (it says so in the environment): SIGTERM to oneself once the sweep is gone."""
    parent = os.environ.pop(PARENT, None)
    if parent is not None:
        threading.Thread(target=_watch, args=(int(parent),), name="csa-sweep-watch", daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK_SECONDS)
    while True:  # what comes before training does not listen to signals yet, so it is said again
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(LOOK_SECONDS)
