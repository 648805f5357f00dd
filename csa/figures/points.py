"""The points of Figures 2 and 10, kept with the exported records of their runs: networks are not.

    <records>/points/<figure>.npz    points_<n> [N, 2] and labels_<n> [N] of every cloud; the words around them

The same points give the same picture, so a report redraws the figure where neither network nor images are.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from io import BytesIO
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np

from csa.config.faults import Fault, UserError
from csa.figures.representation import Cloud, Representation, drawn_representation
from csa.tracking.files import write_bytes

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from pathlib import Path

    from csa.reporting.page import Drawn

FOLDER = "points"
UNREADABLE = (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile, zlib.error)


def packed(shown: Representation, caption: str, fingerprints: Sequence[str]) -> bytes:
    """An ``.npz`` file from which ``drawn_from_points`` draws the figure again."""
    about = {
        "caption": caption,
        "fingerprints": fingerprints,
        "rows": [[cloud.name for cloud in row] for row in shown.rows],
        "classes": shown.classes,
        "names": shown.names,
        "axis": shown.axis,
    }
    arrays: dict[str, Any] = {"about": np.frombuffer(json.dumps(about, sort_keys=True).encode(), dtype=np.uint8)}
    for number, cloud in enumerate(cloud for row in shown.rows for cloud in row):
        arrays |= {f"points_{number}": cloud.points, f"labels_{number}": cloud.labels}
    buffer = BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def keep(drawn: Drawn, records: Path) -> Path | None:
    """Write the figure's points beside the exported records of its runs; None where one of them is not exported."""
    exported = all(any(records.glob(f"*/*/{fingerprint}.json")) for fingerprint in drawn.fingerprints)
    if not drawn.points or not exported:
        return None
    path = records / FOLDER / f"{drawn.name}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, drawn.points)
    return path


def drawn_from_points(records: Path, known: Collection[str]) -> Iterator[Drawn]:
    """The figures whose points are kept below ``records``, as far as all their runs are known by fingerprint.

    Raises UserError for a file that cannot be read.
    """
    for path in sorted((records / FOLDER).glob("*.npz")):
        try:
            shown, about = _read(path)
        except UNREADABLE as error:
            problem = f"cannot be read ({type(error).__name__}: {error})"
            raise UserError(Fault("points", path, problem, "the whole file, or none")) from error
        if set(about["fingerprints"]) <= set(known):
            yield drawn_representation(path.stem, about["caption"], about["fingerprints"], shown)


def _read(path: Path) -> tuple[Representation, dict[str, Any]]:
    with np.load(path, allow_pickle=False) as file:
        about = json.loads(file["about"].tobytes())
        numbers = count()
        rows = [[_cloud(file, name, next(numbers)) for name in row] for row in about["rows"]]
    return Representation(rows, about["classes"], about["names"], about["axis"]), about


def _cloud(file: Mapping[str, np.ndarray], name: str, number: int) -> Cloud:
    return Cloud(name, file[f"points_{number}"], file[f"labels_{number}"])
