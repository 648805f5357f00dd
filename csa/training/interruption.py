"""Ctrl-C and SIGTERM: the first asks the loop to save and stop, a second Ctrl-C stops at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

from csa.cli import CTRL_C_STATUS, REQUEUE_STATUS
from csa.config.host import started_together
from csa.training.distributed import LostProcessError


class StoppedError(Exception):
    """Training was asked to stop; its checkpoint is written."""

    def __init__(self, status: int) -> None:
        super().__init__(f"stopped on request, exit status {status}")
        self.status = status


class Interruption:
    """Context manager that turns signals into a flag which the loop reads between two steps."""

    def __init__(self) -> None:
        self.status: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, _kind: object, error: object, _trace: object) -> None:
        if isinstance(error, LostProcessError | StoppedError) and started_together().count > 1:
            return  # the launcher asks all to stop when one has ended; this one is ending, and has things to do
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.status == CTRL_C_STATUS:
            raise KeyboardInterrupt
        self.status = CTRL_C_STATUS if number == signal.SIGINT else REQUEUE_STATUS
