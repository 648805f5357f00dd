"""A trained method, back from its record: applied to images with its own arithmetic, or as a file that others run."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from csa.config.faults import Fault, UserError, first_line
from csa.config.host import cores
from csa.config.recorded import read_recorded
from csa.data.dataset import load_split
from csa.data.decoding import LostWorkerError, telling_lost_workers
from csa.data.pictures import UnreadableImageError
from csa.data.streaming import plain_batches
from csa.methods.method import build_method
from csa.tracking.run import Run
from csa.training import checkpoint
from csa.training.distributed import ProcessGroup
from csa.training.evaluation import EVALUATION_BATCH, NotFiniteLogitsError, head_logits, head_scores, plain_logits
from csa.training.machine import choose

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from torch.export import ExportedProgram

    from csa.config.schema import Config, RuntimeConfig
    from csa.data.split import Images, Split
    from csa.methods.method import Method
    from csa.metrics import Scores


class HeadNetwork(nn.Module):
    """Images [B, C, H, W] in [0, 1] to the logits [B, K], in float32, of one head."""

    def __init__(self, method: Method, head: str, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.method = method
        self.head = head
        self.image_shape = image_shape

    def forward(self, images: Tensor) -> Tensor:
        return self.method.logits(images)[self.head].float()


def load_method(folder: Path) -> tuple[Method, Config]:
    """The method of a finished run with its trained weights, in evaluation mode on the processor.

    Raises:
        FileNotFoundError: the run is not done, or its checkpoint is gone.
        UserError: the record is damaged or written by another schema, or the checkpoint is not whole.
    """
    run = Run(folder)
    split = run.result["split"]
    config = read_recorded(folder / "config.yaml")
    channels, height, width = split["image_shape"]
    config = replace(config, backbone=config.backbone.without_weights())
    method = build_method(config, (channels, height, width), split["mean"], split["std"], split["counts"])
    for stage in range(len(method.stages)):
        method.enter_stage(stage)
    try:
        method.load_state_dict(checkpoint.load(run.checkpoint)["method"])
    except checkpoint.DamagedCheckpointError as error:
        raise UserError(Fault("run", folder.name, f"its model cannot be read ({error})")) from error
    return method.eval(), config


def head_network(folder: Path, head: str = "") -> HeadNetwork:
    """The network of a finished run as one function from images to logits; raises what ``load_method`` raises.

    head: the one that stands for the run where none is named. What its computation does not touch (a context bank) is
    left out.
    """
    method, _ = load_method(folder)
    channels, height, width = Run(folder).result["split"]["image_shape"]
    network = HeadNetwork(method, head or method.primary_head, (channels, height, width)).eval()
    touched = _Touched()
    with torch.no_grad(), touched:
        network(torch.zeros(2, channels, height, width))
    for module in network.modules():
        for tensors in (module._parameters, module._buffers):
            unused = [name for name, tensor in tensors.items() if tensor is not None and id(tensor) not in touched.ids]
            for name in unused:
                del tensors[name]
    return network


def recorded_split(run: Run, data_dir: str, download: bool) -> Split:
    """The data that a finished run was trained and tested on. Raises UserError where they are not what they were."""
    dataset, known = read_recorded(run.folder / "config.yaml").dataset, run.result["split"]["hash"]
    split = load_split(dataset, data_dir, download=download)
    if split.hash != known:
        problem = f"data set {dataset.name!r} is not what it was: its hash was {known}"
        raise UserError(Fault("run", run.folder.name, f"{problem}, now {split.hash}", "the data of the run"))
    return split


class _Touched(TorchFunctionMode):
    """Notes every tensor that goes into a torch function, or whose shape is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: set[int] = set()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.ids |= {id(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        return func(*args, **(kwargs or {}))


# --- applied to images ----------------------------------------------------------------------


def scores_on(
    folder: Path, images: Images, labels: np.ndarray, runtime: RuntimeConfig
) -> tuple[dict[str, Scores], dict[str, str]]:
    """Scores of each head of a finished run on images with labels [N]; and files passed over, with the reason.

    Groups are those of the run's training set. On the same machine the run's own test set gives
    exactly the recorded scores.

    Raises:
        UserError: the model, or an image that may not be passed over, cannot be read; a logit is not finite; or there
            is no such device.
    """
    split = Run(folder).result["split"]
    damaged: dict[str, str] = {}
    method, logits, on_device = _applied(folder, images, labels, runtime, damaged)
    try:
        return head_scores(method, logits, on_device, split["by_rank"], split["by_count"], ProcessGroup()), damaged
    except NotFiniteLogitsError as error:
        raise UserError(Fault("run", folder.name, str(error))) from error


def probabilities(
    folder: Path, images: np.ndarray, runtime: RuntimeConfig, *, calibrated: bool = False
) -> dict[str, np.ndarray]:
    """Class probabilities, float32 [N, K], of each head of a finished run; as ``scores_on``.

    calibrated: by the temperature of the run's validation images, where it has such.
    """
    method, logits, _ = _applied(folder, images, np.zeros(len(images), dtype=np.int64), runtime, {})
    run = Run(folder)
    known = {head: run.temperature(head) if calibrated else None for head in logits}
    return {head: method.probabilities(outputs / (known[head] or 1)).cpu().numpy() for head, outputs in logits.items()}


@contextmanager
def _telling_what_cannot_be_read(dataset: str) -> Iterator[None]:
    try:
        with telling_lost_workers():
            yield
    except (UnreadableImageError, LostWorkerError) as error:
        raise UserError(Fault("dataset", dataset, str(error))) from error


def _applied(
    folder: Path, images: Images, labels: np.ndarray, runtime: RuntimeConfig, damaged: dict[str, str]
) -> tuple[Method, dict[str, Tensor], Tensor]:
    """The method, the logits of each of its heads, and the labels on the device.

    Number of threads and precision are the recorded ones, unless ``runtime`` names threads: both move last bits.

    damaged: to be filled with the files that are passed over.
    """
    result = Run(folder).result
    method, config = load_method(folder)
    machine = choose(
        replace(runtime, threads=runtime.threads or result["threads"]),
        replace(config.protocol, precision=result["precision"]),
    )
    method.to(device=machine.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    batches = plain_batches(images, labels, EVALUATION_BATCH, machine.device, machine.threads, damaged)
    with _telling_what_cannot_be_read(config.dataset.name):
        return method, *head_logits(method, plain_logits(method, machine), batches)


# --- one file that needs nothing of this package: a program of torch.export, or ONNX -----------
# It takes float32 images [B, C, H, W] in [0, 1], any B, and gives logits [B, K] and probabilities [B, K]; normalisation
# is inside, and a text that says so, with the names of the classes (JSON).


Form = Literal["pt2", "onnx"]
CONTRACT = "contract.json"
"""Of torch.export an extra file, of ONNX the key of a metadata entry."""
IMAGES, LOGITS, PROBABILITIES, BATCH = "images", "logits", "probabilities", "batch"
EXAMPLE_IMAGES = 2  # a batch of one would fix the batch size of the exported graph


class Answering(nn.Module):
    """Logits of a head, and its method's probabilities at a temperature, by name."""

    def __init__(self, network: HeadNetwork, temperature: float) -> None:
        super().__init__()
        self.network = network
        self.temperature = temperature

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        logits = self.network(images)
        return {LOGITS: logits, PROBABILITIES: self.network.method.probabilities(logits / self.temperature)}


def packed(network: HeadNetwork, temperature: float, contract: Mapping[str, Any], form: Form) -> bytes:
    """The content of the file. Raises UserError where the network, or this machine, has no such form."""
    text = json.dumps(contract, indent=1)
    example = torch.full((EXAMPLE_IMAGES, *network.image_shape), 0.5)
    program = _exported(Answering(network, temperature).eval().requires_grad_(False), example, form)
    if form == "onnx":
        return _as_onnx(program, text)
    stream = BytesIO()
    torch.export.save(program, stream, extra_files={CONTRACT: text})
    return stream.getvalue()


def opened(content: bytes, form: Form) -> Callable[[Tensor], Tensor]:
    """What the file answers: images to logits."""
    if form == "pt2":
        module = torch.export.load(BytesIO(content)).module()
        return lambda images: cast("Tensor", module(images)[LOGITS])
    from onnxruntime import InferenceSession

    session = InferenceSession(content, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run([LOGITS], {IMAGES: images.numpy()})[0])


def answers(answer: Callable[[Tensor], Tensor], images: Images, labels: np.ndarray, dataset: str) -> np.ndarray:
    """The class that ``answer`` gives to each image, [N]: images [B, C, H, W] in [0, 1] to logits, on the processor.

    Damaged files are passed over where the data set says so. Raises UserError where one may not be, or cannot be read.
    """
    batches = plain_batches(images, labels, EVALUATION_BATCH, torch.device("cpu"), cores(), {})
    with _telling_what_cannot_be_read(dataset), torch.no_grad():
        return torch.cat([answer(batch.images).argmax(1) for batch in batches]).numpy()


def _exported(answering: Answering, example: Tensor, form: Form) -> ExportedProgram:
    try:
        with torch.no_grad():
            return torch.export.export(answering, (example,), dynamic_shapes={IMAGES: {0: Dim(BATCH)}})
    except Exception as error:  # torch.export raises what tracing a network happens to
        problem = f"torch.export cannot take this network ({first_line(error)})"
        raise UserError(Fault("format", form, problem)) from error


def _as_onnx(program: ExportedProgram, text: str) -> bytes:
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(Fault("format", "onnx", "its packages are not installed", "pip install 'csa[onnx]'")) from error
    names: dict[str, Any] = {"input_names": [IMAGES], "output_names": [LOGITS, PROBABILITIES]}
    names["dynamic_shapes"] = {IMAGES: {0: BATCH}}  # no more than a name: the program knows its shapes
    made = torch.onnx.export(program, (), **names, dynamo=True, verbose=False)
    assert made is not None
    model = made.model_proto
    model.metadata_props.add(key=CONTRACT, value=text)
    return bytes(model.SerializeToString())
