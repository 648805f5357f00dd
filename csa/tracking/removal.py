"""Deleting a recorded run, and nothing else."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from csa.tracking.finding import fingerprint_of
from csa.tracking.lease import Lease

if TYPE_CHECKING:
    from pathlib import Path

    from csa.tracking.run import Run


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
