"""Which sweeps a run belongs to: ``sweeps.json`` in its folder, since a cell may be of several."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from csa.tracking.files import locked, read_json, write_json

if TYPE_CHECKING:
    from pathlib import Path

NAME = "sweeps.json"


def sweeps_of(folder: Path) -> list[dict[str, str | None]]:
    """Of each its name and, once there is one, its run in MLflow (``parent_run_id``); a damaged file says nothing."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        return [{"name": one["name"], "parent_run_id": one["parent_run_id"]} for one in read_json(folder / NAME)]
    return []


def note(folder: Path, name: str, run_id: str | None = None) -> bool:
    """Note that a run belongs to a sweep; whether that is news.

    Raises:
        OSError: it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with locked((folder / NAME).with_suffix(".lock")):  # another sweep of the same cells does the same
        known = sweeps_of(folder)
        own = next((one for one in known if one["name"] == name), None)
        if own is not None and run_id in (None, own["parent_run_id"]):
            return False
        others = [one for one in known if one["name"] != name]
        write_json(folder / NAME, [*others, {"name": name, "parent_run_id": run_id}])
        return True
