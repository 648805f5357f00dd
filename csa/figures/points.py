"""The points of Figures 2 and 10, kept with the exported records of their runs: networks are not.

    <records>/points/<figure>.npz    points_<n> [N, 2] and labels_<n> [N] of every cloud; the words around them

The same points give the same picture, so a report redraws the figure where neither network nor images are.
"""

from __future__ import annotations

import json
from io import BytesIO
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np

from csa.figures.representation import Cloud, Representation, drawn_representation
from csa.tracking.exported import exported_paths
from csa.tracking.files import UNREADABLE, write_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import pandas as pd

    from csa.reporting.layout import Drawn

FOLDER = "points"
SCHEMA = 1


def packed(shown: Representation, caption: str, fingerprints: Sequence[str]) -> bytes:
    """An ``.npz`` file from which ``drawn_from_points`` draws the figure again."""
    about = {
        "schema": SCHEMA,
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


def keep(drawn: Drawn, records: Path) -> str:
    """Write the figure's points beside the exported records of its runs, if all of these are. Says what it did.

    Points of other runs that lie there already stay.
    """
    if not drawn.points or not all(exported_paths(records, one) for one in drawn.fingerprints):
        return ""
    path = records / FOLDER / f"{drawn.name}.npz"
    if path.exists() and _fingerprints(path) not in (None, list(drawn.fingerprints)):
        return f"{path} is of other runs and stays; without it the points of this figure would be kept there"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, drawn.points)
    except OSError as error:
        return f"{path} cannot be written ({error.strerror}): the figure's points are not kept"
    return f"{path}: from it the report draws this figure without networks"


def drawn_from_points(records: Path, frame: pd.DataFrame, name: str = "*") -> Iterator[Drawn | str]:
    """The figures, or that of one ``name``, whose points are kept below ``records``; for one that cannot be drawn, why.

    The caption says of which settings beyond the usual ones the runs are.
    """
    settings = dict(zip(frame["fingerprint"], frame["settings"], strict=True)) if len(frame) else {}
    for path in sorted((records / FOLDER).glob(f"{name}.npz")):
        try:
            shown, about = _read(path)
            missing = [one for one in about["fingerprints"] if one not in settings]
            if missing:
                yield f"{path}: the record of {', '.join(missing)} is not there"
                continue
            marks = [f"{one}: {settings[one]}." for one in about["fingerprints"] if settings[one]]
            yield drawn_representation(path.stem, " ".join([about["caption"], *marks]), about["fingerprints"], shown)
        except UNREADABLE as error:
            yield (
                f"{path}: cannot be drawn ({type(error).__name__}: {error}); "
                "delete it, and python -m csa.report figure=... writes it from the networks"
            )


def _fingerprints(path: Path) -> list[str] | None:
    """None where they cannot be read."""
    try:
        found: list[str] = _read(path)[1]["fingerprints"]
    except UNREADABLE:
        return None
    return found


def _read(path: Path) -> tuple[Representation, dict[str, Any]]:
    with np.load(path, allow_pickle=False) as file:
        about = json.loads(file["about"].tobytes())
        if about["schema"] != SCHEMA:
            raise ValueError(f"schema {about['schema']}, this version reads {SCHEMA}")
        numbers = count()
        rows = [[_cloud(file, name, next(numbers)) for name in row] for row in about["rows"]]
    return Representation(rows, about["classes"], about["names"], about["axis"]), about


def _cloud(file: Mapping[str, np.ndarray], name: str, number: int) -> Cloud:
    points, labels = file[f"points_{number}"], file[f"labels_{number}"]
    if points.shape != (len(labels), 2) or not np.isfinite(points).all():
        raise ValueError(f"points of {name!r} are not a finite pair of numbers for each of {len(labels)} images")
    return Cloud(name, points, labels)
