"""Figures beside the runs that they show, in MLflow."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from csa.reporting.mlflow_source import run_ids, unreachable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from csa.reporting.page import Drawn

FOLDER = "figures"


def send(figures: Sequence[Drawn], uri: str, experiment: str) -> int:
    """Log each figure to every run it shows that MLflow has; the number of such runs.

    Raises:
        UserError: the store cannot be reached.
    """
    client, known = run_ids(uri, experiment)
    reached = set()
    with tempfile.TemporaryDirectory(prefix="csa-figures-") as folder:
        for drawn in figures:
            there = sorted(set(drawn.fingerprints) & known.keys())
            for ending, content in drawn.files.items() if there else ():
                path = Path(folder) / f"{drawn.name}.{ending}"
                path.write_bytes(content)
                for fingerprint in there:
                    try:
                        client.log_artifact(known[fingerprint], str(path), FOLDER)
                    except Exception as error:  # MLflow raises what its stores happen to
                        raise unreachable(uri, error) from error
            reached.update(there)
    return len(reached)
