"""What MLflow keeps of a finished run beside its numbers: files, pictures, a table, the model."""

from __future__ import annotations

from functools import partial
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

import numpy as np

from csa.config.faults import without_passwords
from csa.tracking import contents

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from matplotlib.figure import Figure
    from mlflow import MlflowClient

    from csa.tracking.contents import Contents

FILES = ("result.json", "metrics.jsonl", "test_outputs.npz", "checkpoint.pt")
TABLE = "per_class.json"
MODEL = "model"
EXAMPLE_IMAGES = 2  # a batch of one would fix the batch size of the exported graph


def of(
    now: Contents, client: MlflowClient, run_id: str, uri: str, model: str | None
) -> Iterator[tuple[str, Callable[[], None]]]:
    """Name and sender of each artifact, the small ones first."""
    assert now.result is not None
    yield "config.yaml", partial(_send_configuration, now, client, run_id)
    yield TABLE, partial(_send_table, now, client, run_id)
    for head in now.result["heads"]:
        yield f"confusion/{head}.png", partial(_send_picture, now, client, run_id, head)
    for name in FILES:
        yield name, partial(_send_file, now.folder / name, client, run_id)
    if model is not None and now.config["tracking"].get("model") is not False:
        yield MODEL, partial(_send_model, now, client, run_id, uri, model)


def _send_file(path: Path, client: MlflowClient, run_id: str) -> None:
    if path.exists():
        client.log_artifact(run_id, str(path))


def _send_configuration(now: Contents, client: MlflowClient, run_id: str) -> None:
    client.log_text(run_id, without_passwords((now.folder / "config.yaml").read_text()), "config.yaml")


def _send_table(now: Contents, client: MlflowClient, run_id: str) -> None:
    assert now.result is not None
    if TABLE not in [file.path for file in client.list_artifacts(run_id)]:  # else its rows would be added to
        client.log_table(run_id, contents.per_class_table(now.result), TABLE)


def _send_picture(now: Contents, client: MlflowClient, run_id: str, head: str) -> None:
    assert now.result is not None
    split, scores = now.result["split"], now.result["heads"][head]["last"]
    order = np.argsort(-np.array(split["counts"]), kind="stable")
    with np.load(now.folder / "test_outputs.npz") as outputs:
        confusion = outputs[f"confusion_{head}"][np.ix_(order, order)]
    title = f"{contents.run_name(now)}\n{head}: {scores['all']:.2f} % of the test images are right"
    figure = confusion_picture(confusion, [split["classes"][index] for index in order], title)
    client.log_figure(run_id, figure, f"confusion/{head}.png")


def _send_model(now: Contents, client: MlflowClient, run_id: str, uri: str, model: str) -> None:
    """Export the network as a graph that needs none of this package; once, whatever was cut off before."""
    import mlflow
    import torch

    experiment = client.get_run(run_id).info.experiment_id
    for logged in client.search_logged_models([experiment], filter_string=f"source_run_id = '{run_id}'"):
        if str(logged.status) == "READY":
            return
        client.delete_logged_model(logged.model_id)
    module = resolve_name(model)(now.folder)
    example = torch.full((EXAMPLE_IMAGES, *module.image_shape), 0.5)
    with torch.no_grad():
        classes = module(example).shape[1]
    # Made here, since log_model would make it in the experiment that MLflow holds for the active one.
    known = contents.parameters(now.config)
    logged = client.create_logged_model(experiment, MODEL, source_run_id=run_id, params=known)
    mlflow.set_tracking_uri(uri)
    mlflow.pytorch.log_model(
        module,
        model_id=logged.model_id,
        serialization_format="pt2",
        signature=_signature(module.image_shape, classes),
        input_example=example.numpy(),
        pip_requirements=[f"{name}=={_version(name)}" for name in ("mlflow", "torch", "numpy")],
        run_id=run_id,
        step=max(len(now.lines) - 1, 0),
    )


def _signature(image_shape: tuple[int, int, int], classes: int) -> Any:
    """Images [-1, C, H, W] in [0, 1] to logits [-1, K]; without names, which would make MLflow serve dictionaries."""
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    images = TensorSpec(np.dtype(np.float32), (-1, *image_shape))
    logits = TensorSpec(np.dtype(np.float32), (-1, classes))
    return ModelSignature(inputs=Schema([images]), outputs=Schema([logits]))


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package).partition("+")[0]  # without the build (``2.11.0+cu128``)


MOST_NAMES = 30  # up to so many, classes are named on the axes; up to half as many, cells hold their percentage
NUMBERED_EVERY = 10


def confusion_picture(confusion: np.ndarray, classes: Sequence[str], title: str) -> Figure:
    """A confusion matrix [K, K] of counts (rows: labels, columns: predictions), each row as shares of its images.

    classes: names in the order of the rows, most training images first.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    number = len(classes)
    side = min(4 + 0.35 * number, 10)
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    # The root of the share: a few percent of confusions must be seen beside a full diagonal.
    image = axes.imshow(np.sqrt(shares), cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    bar = figure.colorbar(image, ax=axes, shrink=0.8, label="share of the class's images")
    bar.set_ticks([share**0.5 for share in (0, 0.05, 0.25, 0.5, 1)], labels=["0 %", "5 %", "25 %", "50 %", "100 %"])
    if number <= MOST_NAMES:
        names = [name if len(name) <= 14 else name[:13] + "…" for name in classes]
        axes.set_xticks(range(number), names, rotation=60, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(number), names)
    else:
        axes.set_xticks(range(0, number, NUMBERED_EVERY))
        axes.set_yticks(range(0, number, NUMBERED_EVERY))
    if number <= MOST_NAMES // 2:
        for row, column in np.argwhere(confusion > 0):
            share = shares[row, column]
            colour = "white" if share > 0.4 else "black"
            axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=8, color=colour)
    axes.set(title=title, xlabel="predicted class", ylabel="class, most training images first")
    return figure
