"""``tracking=csv``: ``metrics.csv`` in the run folder, a row an epoch; the last row has what only the end knows."""

from __future__ import annotations

import csv
from io import StringIO
from typing import TYPE_CHECKING, Any

from csa.config.schema import TrackingConfig
from csa.tracking.files import write_text
from csa.tracking.tracker import Tracker

if TYPE_CHECKING:
    from pathlib import Path

    from csa.tracking.snapshot import Snapshot

NAME = "metrics.csv"
CALLED = ("stage", "epoch")


class CsvTracker(Tracker[TrackingConfig]):
    def browse(self, folder: Path) -> str:
        return str(folder / NAME)

    def push(self, run: Snapshot) -> str:
        """The whole table: as many rows as the record has epochs, also where it was cut back to its checkpoint."""
        rows: list[dict[str, Any]] = [
            {"step": step, **{name: line[name] for name in CALLED}, **metrics}
            for step, (line, metrics) in enumerate(zip(run.lines, run.epochs(), strict=True))
        ]
        if rows:
            rows[-1] |= run.final_metrics()
        text = StringIO()
        columns = dict.fromkeys(("step", *CALLED, *(name for row in rows for name in row)))
        table = csv.DictWriter(text, columns, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
        path = run.folder / NAME
        if path.exists() and path.read_text() == text.getvalue():
            return ""
        write_text(path, text.getvalue())
        return f"wrote {len(rows)} epochs"
