"""Which runs are recorded below a folder, which of them is meant; and deleting one, and nothing else."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from typing import TYPE_CHECKING

from csa.config.faults import Fault, UserError, nearest
from csa.config.identity import DIGITS
from csa.tracking.files import UNREADABLE, read_json
from csa.tracking.lease import Lease
from csa.tracking.run import Run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LATEST = "latest"
EXPECTED = f"a fingerprint or how it begins, or {LATEST}; python -m csa.records lists them"
MOST_CANDIDATES = 5
AT_THE_END = re.compile(rf"-([0-9a-f]{{{DIGITS}}})$")


def runs(output_root: Path) -> Iterator[Run]:
    """Every run below ``output_root`` (``<data set>/<method>/<slug>-<fingerprint>``), by name."""
    for path in sorted(output_root.glob("*/*/*/identity.json")):
        if fingerprint_of(path.parent):
            yield Run(path.parent)


def fingerprint_of(folder: Path) -> str | None:
    """The fingerprint of a run folder: in its identity.json and at the end of its name. None: it is no run folder.

    Where identity.json is damaged, its name alone says it: such a run can still be listed and removed.
    """
    path, named = folder / "identity.json", AT_THE_END.search(folder.name)
    try:
        fingerprint = read_json(path)["fingerprint"]
    except UNREADABLE:
        return named[1] if named and path.is_file() else None
    is_text = isinstance(fingerprint, str) and fingerprint
    return fingerprint if is_text and folder.name.endswith(f"-{fingerprint}") else None


def find_run(output_root: Path, text: str) -> Run:
    """The run whose fingerprint is ``text``, or alone begins with it; the latest.

    Raises:
        UserError: there is none, or there are several; candidates are named.
    """
    if not text:
        raise UserError(Fault("run", None, "must be given", EXPECTED))
    if text == LATEST and (folder := latest(output_root)):
        return Run(folder)
    known = [(fingerprint_of(run.folder) or "", run) for run in runs(output_root)]
    found = [(fingerprint, run) for fingerprint, run in known if fingerprint.startswith(text)]
    if not found:
        problem = f"there is no such run below {output_root}" if known else f"no run is recorded below {output_root}"
        raise UserError(Fault("run", text, problem, EXPECTED, nearest(text, [fingerprint for fingerprint, _ in known])))
    if len(found) > 1:
        candidates = [f"{fingerprint} ({run.folder})" for fingerprint, run in found]
        listed = ", ".join(candidates[:MOST_CANDIDATES])
        more = f" and {len(found) - MOST_CANDIDATES} more" if len(found) > MOST_CANDIDATES else ""
        raise UserError(Fault("run", text, f"stands for {len(found)} runs", listed + more))
    return found[0][1]


def point_to_latest(output_root: Path, folder: Path) -> None:
    """``<output_root>/latest`` leads to a run from now on: a link, or a file with its path where there can be none."""
    pointer, draft = output_root / LATEST, output_root / f".{LATEST}.{os.getpid()}"
    with contextlib.suppress(OSError):  # the run is no worse without
        try:
            draft.symlink_to(folder.relative_to(output_root), target_is_directory=True)
        except OSError:
            draft.write_text(f"{folder.relative_to(output_root)}\n")
        try:
            draft.replace(pointer)
        finally:
            draft.unlink(missing_ok=True)  # a data set of that name has the place


def latest(output_root: Path) -> Path | None:
    """The folder of the run that ended last, where that is still there."""
    pointer = output_root / LATEST
    try:
        target = output_root / (pointer.readlink() if pointer.is_symlink() else pointer.read_text().strip())
    except OSError:
        return None
    return target if fingerprint_of(target) else None


def find_finished(output_root: Path, text: str) -> Run:
    """As ``find_run``.

    Raises:
        UserError: also where the run is not done, or its configuration, result or model cannot be read.
    """
    run = find_run(output_root, text)
    name, state = run.folder.name, run.state
    if state != "done":
        problem = f"is {state}" + (f" ({run.failure_line})" if state == "failed" else "")
        raise UserError(Fault("run", name, problem, "a finished run; the command that started it continues it"))
    if not run.checkpoint.exists():
        raise UserError(Fault("run", name, "has no checkpoint.pt", "a run with its model"))
    _ = run.config, run.result
    return run


# --- removing --------------------------------------------------------------------------------


class NotARunError(Exception):
    """The folder is not, or not really, a run folder below the output folder."""


def remove(run: Run, output_root: Path) -> None:
    """Delete a run's folder while holding its lease, so that it cannot be in training.

    It is renamed first: a removal that is cut off leaves no half of a run that would be continued.

    Raises:
        HeldError: a process is training it. Where the lease is another machine's, it is watched for
            three beats (15 s) before that machine counts as gone.
        NotARunError: no identity.json, or the folder lies elsewhere behind a link.
        OSError: it cannot be deleted.
    """
    folder = run.folder
    if fingerprint_of(folder) is None:
        raise NotARunError(f"{folder} has no identity.json of its own")
    if folder.resolve() != output_root.resolve() / folder.relative_to(output_root):
        raise NotARunError(f"{folder} is a link, or lies behind one; remove {folder.resolve()} by hand")
    doomed = folder.with_name(f".{folder.name}.removed")
    if doomed.exists():
        shutil.rmtree(doomed)
    with Lease(folder):
        folder.rename(doomed)
    shutil.rmtree(doomed)
