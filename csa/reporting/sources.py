"""Where a report's runs come from, and which of two records of one run counts.

Run folders come first: they hold everything, checkpoint and logits included. Then exported records;
then MLflow, for what is only there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from csa.config.faults import UserError
from csa.reporting.runs import Run, UnusableRunError, check
from csa.tracking.exported import exported_paths, read_exported
from csa.tracking.files import read_json
from csa.tracking.finding import runs as recorded_runs
from csa.tracking.record import OldRecordError, Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from csa.reporting.runs import Origin


@dataclass
class Found:
    """runs: one of each fingerprint, by fingerprint; left_out: why records do not count; notes: what else to know."""

    runs: list[Run] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, others: Iterable[Run | str]) -> None:
        """Runs that are not there yet, and complaints; of a run that is told twice the first one counts.

        On another kind of device the same run has another result. Elsewhere that is noted.
        """
        known = {run.fingerprint: run for run in self.runs}
        for other in others:
            if isinstance(other, str):
                self.left_out.append(other)
            elif other.fingerprint not in known:
                known[other.fingerprint] = other
            elif _outcome(other) != _outcome(known[other.fingerprint]) and _device(other) == _device(
                known[other.fingerprint]
            ):
                taken = known[other.fingerprint].where
                self.notes.append(f"{other.where} tells of other accuracies than {taken}, which is taken")
        self.runs = [known[fingerprint] for fingerprint in sorted(known)]


class FolderEvidence:
    """The files of a run folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def labels(self) -> np.ndarray:
        return self._array("labels")

    def predictions(self, head: str) -> np.ndarray:
        return self._array(f"predictions_{head}")

    def logits(self, head: str) -> np.ndarray:
        """float32 [N, K], recorded as fp16."""
        return self._array(f"logits_{head}").astype(np.float32)

    def metrics(self) -> list[dict[str, Any]]:
        return Record(self.folder).metrics()

    def _array(self, name: str) -> np.ndarray:
        with np.load(self.folder / "test_outputs.npz", allow_pickle=False) as outputs:
            array: np.ndarray = outputs[name]
        return array


def from_folders(output_root: Path) -> Iterator[Run | str]:
    """Every finished run below ``output_root``; for one that cannot be used, why."""
    for record in recorded_runs(output_root):
        if record.state == "done":
            yield attempt(str(record.folder), lambda record=record: from_folder(record.folder, "folder"))  # type: ignore[misc]


def from_records(folder: Path) -> Iterator[Run | str]:
    """Every exported record below ``folder``; for one that cannot be used, why."""
    for path in exported_paths(folder):
        yield attempt(str(path), lambda path=path: _from_record(path))  # type: ignore[misc]


def from_folder(folder: Path, origin: Origin, where: str = "") -> Run:
    """Raises what ``attempt`` catches."""
    who, result, config = read_json(folder / "identity.json"), Record(folder).result(), _yaml(folder / "config.yaml")
    check(result, who["identity"], config)
    return Run(
        who["fingerprint"],
        who["identity"],
        config,
        result,
        FolderEvidence(folder),
        origin,
        where or str(folder),
        folder,
    )


def _from_record(path: Path) -> Run:
    there = read_exported(path)
    check(there.result, there.identity, there.config)
    return Run(there.fingerprint, there.identity, there.config, there.result, there, "record", str(path))


def attempt(where: str, read: Callable[[], Run]) -> Run | str:
    """The run, or in one line why it is left out."""
    try:
        return read()
    except UserError as error:
        return "; ".join(map(str, error.faults))
    except OldRecordError as error:
        return str(error)
    except (UnusableRunError, OSError, ValueError, KeyError, TypeError) as error:
        told = (
            str(error) if isinstance(error, UnusableRunError) else f"cannot be read ({type(error).__name__}: {error})"
        )
        return f"{where}: {told}"


def _yaml(path: Path) -> dict[str, Any]:
    """A resolved configuration, in a tenth of the time that OmegaConf takes."""
    import yaml  # type: ignore[import-untyped]

    return dict(yaml.load(path.read_text(), Loader=yaml.CSafeLoader))


def _device(run: Run) -> str:
    return str(run.result["device"])


def _outcome(run: Run) -> dict[str, float | None]:
    return {head: scores["last"]["all"] for head, scores in run.result["heads"].items()}
