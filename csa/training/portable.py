"""A trained network as one file that needs nothing of this package: a program of torch.export, or ONNX.

It takes float32 images [B, C, H, W] in [0, 1], any B, and gives logits [B, K] and probabilities [B, K]; normalisation
is inside, and a text that says so, with the names of the classes (JSON).
"""

from __future__ import annotations

import json
from io import BytesIO
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.export import Dim

from csa.config.faults import Fault, UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch.export import ExportedProgram

    from csa.training.recorded import HeadNetwork

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


def contract_of(content: bytes, form: Form) -> dict[str, Any]:
    """What the file says of itself."""
    if form == "pt2":
        files = {CONTRACT: ""}
        torch.export.load(BytesIO(content), extra_files=files)
        return dict(json.loads(files[CONTRACT]))
    from onnxruntime import InferenceSession

    metadata = InferenceSession(content, providers=["CPUExecutionProvider"]).get_modelmeta().custom_metadata_map
    return dict(json.loads(metadata[CONTRACT]))


def _exported(answering: Answering, example: Tensor, form: Form) -> ExportedProgram:
    try:
        with torch.no_grad():
            return torch.export.export(answering, (example,), dynamic_shapes={IMAGES: {0: Dim(BATCH)}})
    except Exception as error:  # torch.export raises what tracing a network happens to
        told = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(Fault("format", form, f"torch.export cannot take this network ({told})")) from error


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
