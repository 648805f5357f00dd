"""A run: what is recorded of it, and what can be done with it in Python."""

from __future__ import annotations

from functools import cached_property
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from csa.config.blocks import build_block
from csa.config.faults import Fault, RecordError, UserError, nearest
from csa.config.recorded import recorded_values
from csa.config.schema import RuntimeConfig
from csa.metrics import by_size, confusion, rescored, softmax_confidence
from csa.tracking import lease
from csa.tracking.description import (
    SCHEMA,
    FolderConfig,
    agreement_faults,
    check_predictions,
    config_faults,
    identity_faults,
    line_faults,
    reading,
    refuse,
    result_faults,
    sound,
)
from csa.tracking.files import UNREADABLE, read_json, read_lines

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Self

    import pandas as pd

    from csa.training.recorded import HeadNetwork

State = Literal["planned", "running", "interrupted", "failed", "done"]
OUTPUTS = "test_outputs.npz"


class Run:
    """What is recorded of a run, in a folder as ``csa.tracking.record`` writes it; of MLflow's, what is kept there.

    A part is read, and turned away where it is damaged, when it is first asked for: RecordError (a UserError) where it
    is damaged or another version's, FileNotFoundError where it is missing; a run that is not done has no result. How
    the run stands (``state``, ``metrics()``, ...) is looked at each time. where: the run lies, for messages.
    """

    has_logits = True

    def __init__(self, folder: Path, where: str = "") -> None:
        self.folder = folder
        self.where = where or str(folder)

    @property
    def fingerprint(self) -> str:
        return str(self._who["fingerprint"])

    @property
    def identity(self) -> dict[str, Any]:
        """What the fingerprint is made of."""
        identity: dict[str, Any] = self._who["identity"]
        return identity

    @cached_property
    def config(self) -> dict[str, Any]:
        """The resolved configuration; nothing in it is resolved again."""
        path = self.folder / "config.yaml"
        config = recorded_values(path)
        refuse(path, config_faults(config, FolderConfig))
        return config

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

    # --- what came out ----------------------------------------------------------------------

    @cached_property
    def result(self) -> dict[str, Any]:
        """As ``csa.tracking.description.Result`` says; of schema 1 scored anew."""
        result: dict[str, Any] = sound(self.folder / "result.json", read_json, result_faults)
        if result["schema"] == SCHEMA:
            return result
        with reading(self.folder / OUTPUTS):
            return rescored(result, lambda head: self._output(f"confusion_{head}")) | {"schema": SCHEMA}

    def finished(self) -> dict[str, Any] | None:
        """The result, where it is there and can be read."""
        try:
            return self.result
        except (FileNotFoundError, RecordError):
            return None

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; a last line that was cut in writing does not count."""
        try:
            lines: list[dict[str, Any]] = sound(self.folder / "metrics.jsonl", read_lines, line_faults)
        except FileNotFoundError:
            return []
        return lines

    @cached_property
    def labels(self) -> np.ndarray:
        """Labels of the test images, int32 [N]."""
        return self._output("labels").astype(np.int32)

    def predictions(self, head: str) -> np.ndarray:
        """Predicted classes of the test images, int32 [N]. Raises KeyError for a head that it has not."""
        return self._output(f"predictions_{head}").astype(np.int32)

    def logits(self, head: str) -> np.ndarray:
        """float32 [N, K], recorded as fp16."""
        return self._output(f"logits_{head}").astype(np.float32)

    def confidence(self, head: str) -> np.ndarray:
        """Probability of the predicted class, float64 [N]; where it was not recorded yet, softmax of the logits."""
        try:
            return self._output(f"confidence_{head}").astype(np.float64)
        except KeyError:
            return softmax_confidence(self.logits(head), self.predictions(head))

    def head(self, wanted: str = "") -> str:
        """The wanted head where the run has it, else the one that stands for the run."""
        return wanted if wanted in self.result["heads"] else str(self.result["head"])

    def scores(self, rule: str = "last", head: str = "") -> dict[str, Any]:
        """What is recorded of a head; rule: ``last`` or ``best_on_test``."""
        found: dict[str, Any] = self.result["heads"][self.head(head)][rule]
        return found

    def temperature(self, head: str) -> float | None:
        """What the logits of a head are divided by to become probabilities; None without validation images."""
        found: float | None = self.result["heads"][head].get("holdout", {}).get("temperature")
        return found

    def head_faults(self, head: str) -> list[Fault]:
        """Whether it has the head that is asked for; nothing where none is."""
        heads = list(self.result["heads"])
        if not head or head in heads:
            return []
        return [Fault("head", head, "the run has no such head", ", ".join(heads), nearest(head, heads))]

    def checked(self) -> Self:
        """This finished run, of which every part is there, sound, and of the same run as the others."""
        refuse(self.folder, agreement_faults(self._who, self.config, self.result))
        self.rescored()
        self.metrics()
        return self

    def rescored(self) -> dict[str, Any]:
        """The result with what ``csa.metrics`` makes of the predictions now; they must give its accuracies."""
        result, classes = self.result, len(self.result["split"]["classes"])
        with reading(self.folder / OUTPUTS):
            labels = self._output("labels")
            predictions = {head: self._output(f"predictions_{head}") for head in result["heads"]}
            check_predictions(result, labels, predictions)
            return rescored(result, lambda head: confusion(labels, predictions[head], classes))

    @cached_property
    def _who(self) -> dict[str, Any]:
        who: dict[str, Any] = sound(self.folder / "identity.json", read_json, identity_faults)
        return who

    def _output(self, name: str) -> np.ndarray:
        with np.load(self.folder / OUTPUTS, allow_pickle=False) as outputs:
            array: np.ndarray = outputs[name]
        return array

    # --- how it stands ----------------------------------------------------------------------

    @property
    def state(self) -> State:
        if (self.folder / "result.json").exists():
            return "done"
        if lease.is_held(self.folder):
            return "running"
        if (self.folder / "failure.json").exists():
            return "failed"
        return "interrupted" if (self.folder / "identity.json").exists() else "planned"

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    @property
    def holder(self) -> str:
        """Who is training it."""
        return str(lease.holder(self.folder) or "another process")

    def failure(self) -> str:
        """Why it failed. Raises FileNotFoundError where it has not."""
        try:
            return str(read_json(self.folder / "failure.json")["reason"]).strip()
        except FileNotFoundError:
            raise
        except UNREADABLE:
            return "failure.json cannot be read"

    @property
    def failure_line(self) -> str:
        """Why it failed: the first line of the reason, or of a traceback the last, which is its exception."""
        lines = self.failure().splitlines()
        if not lines:
            return "no reason was given"
        return lines[-1] if lines[0].startswith("Traceback") else lines[0]

    @property
    def epochs_so_far(self) -> int:
        try:
            return (self.folder / "metrics.jsonl").read_bytes().count(b"\n")
        except OSError:
            return 0

    # --- in Python --------------------------------------------------------------------------

    def model(self, head: str = "") -> HeadNetwork:
        """The network of a head, or of that which stands for the run: images [B, C, H, W] in [0, 1] to logits [B, K].

        Raises UserError for a head that it has not, where no checkpoint is there (an exported run has none) or it
        cannot be read.
        """
        self._check_model(head)
        # By name, as below: training writes records and so comes after them.
        network: HeadNetwork = resolve_name("csa.training.recorded:head_network")(self.folder, self.head(head))
        return network

    def predict(self, images: np.ndarray, head: str = "") -> np.ndarray:
        """Class probabilities [N, K] of images, uint8 [N, H, W, C] of the size that the run was trained on.

        On whatever device is here, with the recorded number of threads. Raises UserError for a head that it has not,
        images of another shape, or as ``model``.
        """
        channels, height, width = self.result["split"]["image_shape"]
        if images.ndim != 4 or images.shape[1:] != (height, width, channels) or images.dtype != np.uint8:
            allowed = f"uint8 [N, {height}, {width}, {channels}]"
            raise UserError(Fault("images", f"{images.dtype} {list(images.shape)}", "do not suit the model", allowed))
        self._check_model(head)
        runtime = build_block(RuntimeConfig, {**self.config["runtime"], "device": "auto", "threads": None})
        probabilities = resolve_name("csa.training.recorded:probabilities")
        chosen: np.ndarray = probabilities(self.folder, images, runtime)[self.head(head)]
        return chosen

    def confusion(self, head: str = "") -> pd.DataFrame:
        """Test images [K, K] by class (rows) and predicted class (columns), by name, the largest class first."""
        import pandas as pd

        self._check_head(head)
        names, order = self.result["split"]["classes"], by_size(self.result["split"]["counts"])
        counts = confusion(self.labels, self.predictions(self.head(head)), len(names))
        frame = pd.DataFrame(counts, index=names, columns=names)
        return frame.iloc[order, order].rename_axis(index="class", columns="predicted")

    def report(self) -> pd.DataFrame:
        """Percent of the test images of each class under every head, last epoch; the largest class first."""
        import pandas as pd

        split = self.result["split"]
        groups = {k: group for group, members in split["by_rank"].items() for k in members}
        table = {"training images": split["counts"], "group": [groups.get(k) for k in range(len(groups))]}
        table |= {head: scores["last"]["per_class"] for head, scores in self.result["heads"].items()}
        frame = pd.DataFrame(table, index=pd.Index(split["classes"], name="class"))
        return frame.iloc[by_size(split["counts"])]

    def _check_head(self, head: str) -> None:
        if faults := self.head_faults(head):
            raise UserError(*faults)

    def _check_model(self, head: str) -> None:
        self._check_head(head)
        if not self.checkpoint.exists():
            raise UserError(
                Fault("run", self.fingerprint, f"has no checkpoint in {self.where}", "a run folder with one")
            )

    def __repr__(self) -> str:
        if self.state != "done":
            return f"Run({self.state}, {self.where})"
        right = f"{self.scores()['all']:.2f} % right"
        return f"Run({self.fingerprint}: {self.method} on {self.dataset}, seed {self.seed}, {right}, {self.where})"
