"""A run as Hydra's own launchers call it: in this process, in a job of a cluster, in a worker of Ray."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

from csa.cli import FAILED_STATUS, HELD_STATUS, REQUEUE_STATUS

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from omegaconf import DictConfig

REASONS = {FAILED_STATUS: "the run failed", HELD_STATUS: "another process is training it"}


class RunFailedError(Exception):
    """A run of a sweep failed; its record says why."""


class CellTask:
    """Calls ``task``; a run's exit status becomes an exception, which ends that run and no other.

    In a job of submitit the warning before time-out or pre-emption (SIGUSR2), and a SIGTERM, make
    the run save; then submitit's own handler queues the job again, and it continues.
    """

    def __init__(self, task: Callable[[DictConfig], Any]) -> None:
        self.task = task

    def __call__(self, config: DictConfig) -> Any:
        if "SUBMITIT_EXECUTOR" in os.environ:
            return self._in_submitit(config)
        return self._call(config)

    def _in_submitit(self, config: DictConfig) -> Any:
        queue_again = signal.signal(signal.SIGUSR2, _save)
        try:
            return self._call(config)
        except SystemExit as stopped:
            if stopped.code != REQUEUE_STATUS:
                raise
            signal.signal(signal.SIGUSR2, queue_again)
            os.kill(os.getpid(), signal.SIGUSR2)  # does not come back: it leaves with submitit's status
            raise
        finally:
            signal.signal(signal.SIGUSR2, queue_again)

    def _call(self, config: DictConfig) -> Any:
        try:
            return self.task(config)
        except SystemExit as stopped:
            if stopped.code in REASONS:
                raise RunFailedError(REASONS[stopped.code]) from None
            raise


def _save(_number: int, _frame: FrameType | None) -> None:
    """As if asked by SIGTERM: training saves and leaves with the status that asks to be queued again."""
    os.kill(os.getpid(), signal.SIGTERM)
