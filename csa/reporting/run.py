"""A finished run, wherever it is recorded: what a report reads of it, and what can be done with it in Python."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from csa.config.faults import Fault, UserError
from csa.tracking.description import agreement_faults, refuse
from csa.tracking.finding import head_faults
from csa.tracking.record import Record

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pandas as pd

    from csa.training.recorded import HeadNetwork

Origin = Literal["folder", "record", "mlflow"]


class Evidence(Protocol):
    """What of a run is read only when asked for."""

    @property
    def labels(self) -> np.ndarray: ...

    def predictions(self, head: str) -> np.ndarray: ...

    def metrics(self) -> list[dict[str, Any]]: ...


@dataclass(frozen=True, eq=False)
class Run:
    """config: the resolved configuration, at least its dataset and protocol; result: as in result.json.

    where: for messages; folder: the run folder with its checkpoint, None for an exported record.
    """

    fingerprint: str
    identity: dict[str, Any]
    config: dict[str, Any]
    result: dict[str, Any]
    evidence: Evidence
    origin: Origin
    where: str
    folder: Path | None = None

    @property
    def seed(self) -> int:
        return int(self.identity["seed"])

    @property
    def method(self) -> str:
        return str(self.identity["method"]["name"])

    @property
    def dataset(self) -> str:
        return str(self.identity["dataset"]["name"])

    @property
    def split(self) -> str:
        """Hash of the data that was trained and tested on."""
        return str(self.identity["dataset"]["split"])

    def head(self, wanted: str = "") -> str:
        """The wanted head where the run has it, else the one that stands for the run."""
        return wanted if wanted in self.result["heads"] else str(self.result["head"])

    def scores(self, rule: str = "last", head: str = "") -> dict[str, Any]:
        """What is recorded of a head; rule: ``last`` or ``best_on_test``."""
        found: dict[str, Any] = self.result["heads"][self.head(head)][rule]
        return found

    # --- in Python --------------------------------------------------------------------------

    def model(self, head: str = "") -> HeadNetwork:
        """The network of a head, or of that which stands for the run: images [B, C, H, W] in [0, 1] to logits [B, K].

        Raises UserError for a head that it has not, where no checkpoint is there (an exported record has none) or it
        cannot be read.
        """
        from csa.training.recorded import head_network

        self._check_head(head)
        network: HeadNetwork = self._of_networks(partial(head_network, head=self.head(head)))
        return network

    def predict(self, images: np.ndarray, head: str = "") -> np.ndarray:
        """Class probabilities [N, K] of images, uint8 [N, H, W, C] of the size that the run was trained on.

        Raises UserError for a head that it has not, images of another shape, or as ``model``.
        """
        from csa.training.application import probabilities

        channels, height, width = self.result["split"]["image_shape"]
        if images.ndim != 4 or images.shape[1:] != (height, width, channels) or images.dtype != np.uint8:
            allowed = f"uint8 [N, {height}, {width}, {channels}]"
            raise UserError(Fault("images", f"{images.dtype} {list(images.shape)}", "do not suit the model", allowed))
        self._check_head(head)
        found = self._of_networks(lambda folder: probabilities(folder, images, _runtime(self.config)))
        chosen: np.ndarray = found[self.head(head)]
        return chosen

    def confusion(self, head: str = "") -> pd.DataFrame:
        """Test images [K, K] by class (rows) and predicted class (columns), by name, the largest class first."""
        import pandas as pd

        self._check_head(head)
        split = self.result["split"]
        names, labels = split["classes"], self.evidence.labels
        counts = np.zeros((len(names), len(names)), dtype=np.int64)
        np.add.at(counts, (labels, self.evidence.predictions(self.head(head))), 1)
        order = by_size(split["counts"])
        named = [names[k] for k in order]
        frame = pd.DataFrame(counts[np.ix_(order, order)], index=named, columns=named)
        return frame.rename_axis(index="class", columns="predicted")

    def report(self) -> pd.DataFrame:
        """Percent of the test images of each class under every head, last epoch; the largest class first."""
        import pandas as pd

        split = self.result["split"]
        groups = {k: group for group, members in split["by_rank"].items() for k in members}
        table = {"training images": split["counts"], "group": [groups.get(k) for k in range(len(groups))]}
        table |= {head: scores["last"]["per_class"] for head, scores in self.result["heads"].items()}
        frame = pd.DataFrame(table, index=pd.Index(split["classes"], name="class"))
        return frame.iloc[by_size(split["counts"])]

    def _of_networks(self, use: Any) -> Any:
        from csa.training.checkpoint import DamagedCheckpointError

        if self.folder is None or not (self.folder / "checkpoint.pt").exists():
            raise UserError(
                Fault("run", self.fingerprint, f"has no checkpoint in {self.where}", "a run folder with one")
            )
        try:
            return use(self.folder)
        except DamagedCheckpointError as error:
            raise UserError(Fault("run", self.folder.name, f"its model cannot be read ({error})")) from error

    def _check_head(self, head: str) -> None:
        if faults := head_faults(self.result, head):
            raise UserError(*faults)

    def __repr__(self) -> str:
        return (
            f"Run({self.fingerprint}: {self.method} on {self.dataset}, seed {self.seed}, "
            f"{self.scores()['all']:.2f} % right, {self.where})"
        )


def by_size(counts: Sequence[int]) -> list[int]:
    """Classes, that of most training images first."""
    return sorted(range(len(counts)), key=lambda k: (-counts[k], k))


def _runtime(config: dict[str, Any]) -> Any:
    """The machine's settings of a run folder, on whatever device is here, with the recorded number of threads."""
    from csa.config.blocks import build_block
    from csa.config.schema import RuntimeConfig

    return build_block(RuntimeConfig, {**config["runtime"], "device": "auto", "threads": None})


# --- run folders ----------------------------------------------------------------------------


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

    def confidence(self, head: str) -> np.ndarray:
        """Probability of the predicted class, float64 [N]; where it was not recorded yet, softmax of the logits."""
        try:
            return self._array(f"confidence_{head}").astype(np.float64)
        except KeyError:
            largest = float(np.finfo(np.float16).max)  # larger ones were recorded as infinite
            logits = np.nan_to_num(self.logits(head).astype(np.float64), posinf=largest, neginf=-largest)
            shifted = np.exp(logits - logits.max(1, keepdims=True))
            chosen = np.take_along_axis(shifted, self.predictions(head)[:, None], 1)[:, 0]
            confidence: np.ndarray = chosen / shifted.sum(1)
            return confidence

    def metrics(self) -> list[dict[str, Any]]:
        return Record(self.folder).metrics()

    def _array(self, name: str) -> np.ndarray:
        with np.load(self.folder / "test_outputs.npz", allow_pickle=False) as outputs:
            array: np.ndarray = outputs[name]
        return array


def from_folder(folder: Path, origin: Origin = "folder", where: str = "") -> Run:
    """Raises RecordError where something is damaged or of another version, FileNotFoundError where it is missing."""
    record = Record(folder)
    who, result, config = record.who(), record.result(), record.config()
    refuse(folder, agreement_faults(who, config, result))
    record.predictions(result)
    record.metrics()
    evidence = FolderEvidence(folder)
    return Run(
        who["fingerprint"], who["identity"], config, result, evidence, origin, where or str(folder), folder
    )  # fmt: skip
