"""``runtime.profile=true``: where the time of a step goes, seen by torch's profiler and kept in the record."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import profiler

if TYPE_CHECKING:
    from pathlib import Path

    from torch.profiler import profile

FOLDER, TRACE, OPERATIONS = "profile", "trace.json", "operations.txt"
SKIPPED_STEPS, WARM_STEPS, SEEN_STEPS = 3, 2, 10
DEAREST = 10


def where_profiled(folder: Path) -> str:
    """A line for the user about the profile of the run in ``folder``."""
    if (folder / FOLDER).is_dir():
        return f"profile: {folder / FOLDER} ({OPERATIONS}: the dearest operations; {TRACE}: for Perfetto)"
    return f"no profile: it needs {SKIPPED_STEPS + WARM_STEPS + SEEN_STEPS} steps of training"


class Profiling:
    """A few steps of the run's first epoch; does nothing unless ``wanted``.

    Leaves ``profile/trace.json`` (for Perfetto or chrome://tracing) and ``profile/operations.txt``, the ten
    operations that cost most of their own time.
    """

    def __init__(self, folder: Path, device: torch.device, *, wanted: bool) -> None:
        self._folder, self._device = folder / FOLDER, device
        self._profiler: profile | None = self._made() if wanted else None

    def _made(self) -> profile:
        activities = [profiler.ProfilerActivity.CPU]
        if self._device.type == "cuda":
            activities.append(profiler.ProfilerActivity.CUDA)
        plan = profiler.schedule(skip_first=SKIPPED_STEPS, wait=0, warmup=WARM_STEPS, active=SEEN_STEPS, repeat=1)
        return profiler.profile(activities=activities, schedule=plan, on_trace_ready=self._write)

    def __enter__(self) -> Profiling:
        if self._profiler is not None:
            self._profiler.start()
        return self

    def step(self) -> None:
        """After each step of training."""
        if self._profiler is not None:
            self._profiler.step()

    def __exit__(self, *_: object) -> None:
        if self._profiler is not None:
            self._profiler.stop()

    def _write(self, seen: profile) -> None:
        self._folder.mkdir(exist_ok=True)
        seen.export_chrome_trace(str(self._folder / TRACE))
        own_time = "self_device_time_total" if self._device.type == "cuda" else "self_cpu_time_total"
        table = seen.key_averages().table(sort_by=own_time, row_limit=DEAREST, max_name_column_width=60)
        (self._folder / OPERATIONS).write_text(f"{table}\n")
