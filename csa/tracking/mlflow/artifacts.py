"""What MLflow shows of a run beside its numbers: tags, a description; at the end files, pictures, a table, a model.

And later the figures of a report that it is part of.
"""

from __future__ import annotations

import getpass
import socket
import tempfile
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

import numpy as np

from csa.config.faults import without_passwords
from csa.console import two_decimals
from csa.tracking.mlflow.store import reaching, run_ids
from csa.tracking.record import software
from csa.tracking.snapshot import in_a_word

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from matplotlib.figure import Figure
    from mlflow import MlflowClient

    from csa.tracking.mlflow.store import MlflowTracking
    from csa.tracking.snapshot import Snapshot

FILES = ("result.json", "metrics.jsonl", "test_outputs.npz", "checkpoint.pt")
TABLE = "per_class.json"
MODEL, NETWORK = "model", "csa.training.recorded.head_network"
"""The logged model, and what makes its module of a run folder: images [B, C, H, W] to logits, with ``image_shape``."""
LONGEST_NOTE = 5000
EXAMPLE_IMAGES = 2  # a batch of one would fix the batch size of the exported graph


# --- while it runs --------------------------------------------------------------------------


def tags(run: Snapshot) -> dict[str, str]:
    known: dict[str, Any] = {
        "csa.fingerprint": run.fingerprint,
        "csa.split_hash": run.split,
        "csa.status": run.state,
        "csa.folder": f"{socket.gethostname()}:{run.folder.resolve()}",
        "mlflow.note.content": note(run),
        **{f"csa.sweep.{sweep['name']}": "true" for sweep in run.sweeps},
    }
    parents = [sweep["parent_run_id"] for sweep in run.sweeps if sweep["parent_run_id"]]
    if parents:
        known["mlflow.parentRunId"] = parents[0]
    if run.state == "done":
        known["csa.collapsed"] = in_a_word(run.result["collapsed"])
        known["csa.head"] = run.result["head"]
        known |= _revision(run.result)
    return {key: str(value) for key, value in known.items()}


def tags_at_start(run: Snapshot) -> dict[str, str]:
    """Who started it, with what: known while it runs, from its result later."""
    known = {"mlflow.user": getpass.getuser(), "mlflow.source.name": "csa", "mlflow.source.type": "LOCAL"}
    return known | (_revision(software()) if run.state == "running" else {})


def note(run: Snapshot) -> str:
    """How the run stands, in Markdown: the accuracies of each head, or the reason of a failure."""
    if run.state == "failed":
        return f"Failed:\n\n```\n{run.failure()[-LONGEST_NOTE:]}\n```"
    if run.state != "done":
        return "In training." if run.state == "running" else "Interrupted; the same command continues it."
    rows = ["| head | many | medium | few | all | balanced | best on test | ECE |", "| --- |" + " ---: |" * 7]
    for head, scores in run.result["heads"].items():
        name = f"**{head}**" if head == run.result["head"] else head
        last, best = scores["last"], scores["best_on_test"]
        cells = [two_decimals(last[group]) for group in ("many", "medium", "few", "all", "balanced")]
        cells += [f"{two_decimals(best['all'])} (epoch {best['epoch'] + 1})", two_decimals(last["ece"])]
        rows.append(f"| {name} | " + " | ".join(cells) + " |")
    warning = "**Collapsed**: the network predicts a single class.\n\n" if run.result["collapsed"] else ""
    chosen = run.result.get("chosen")
    when = "the last epoch" if chosen is None else "the epoch that was best on the validation images"
    return f"{warning}Test accuracy in % at {when}.\n\n" + "\n".join(rows)


def _revision(known: Mapping[str, Any]) -> dict[str, str]:
    if not known["git_revision"]:
        return {}
    return {
        "csa.git_revision": known["git_revision"],
        "csa.git_dirty": in_a_word(known["git_dirty"]),
        "mlflow.source.git.commit": known["git_revision"],
    }


# --- once finished --------------------------------------------------------------------------


def of(
    now: Snapshot, client: MlflowClient, run_id: str, settings: MlflowTracking
) -> Iterator[tuple[str, Callable[[], None]]]:
    """Name and sender of each artifact, the small ones first."""
    yield "config.yaml", partial(_send_configuration, now, client, run_id)
    yield TABLE, partial(_send_table, now, client, run_id)
    for head in now.result["heads"]:
        yield f"confusion/{head}.png", partial(_send_picture, now, client, run_id, head)
    for name in FILES:
        yield name, partial(_send_file, now.folder / name, client, run_id)
    if settings.model is not False and now.config["tracking"].get("model") is not False:
        yield MODEL, partial(_send_model, now, client, run_id, settings.address)


def _send_file(path: Path, client: MlflowClient, run_id: str) -> None:
    if path.exists():
        client.log_artifact(run_id, str(path))


def _send_configuration(now: Snapshot, client: MlflowClient, run_id: str) -> None:
    client.log_text(run_id, without_passwords((now.folder / "config.yaml").read_text()), "config.yaml")


def _send_table(now: Snapshot, client: MlflowClient, run_id: str) -> None:
    if TABLE not in [file.path for file in client.list_artifacts(run_id)]:  # else its rows would be added to
        client.log_table(run_id, now.report().reset_index(), TABLE)


def _send_picture(now: Snapshot, client: MlflowClient, run_id: str, head: str) -> None:
    shown = now.confusion(head)
    title = f"{now.name}\n{head}: {now.scores(head=head)['all']:.2f} % of the test images are right"
    client.log_figure(run_id, confusion_picture(shown.to_numpy(), list(shown.index), title), f"confusion/{head}.png")


def _send_model(now: Snapshot, client: MlflowClient, run_id: str, uri: str) -> None:
    """Export the network as a graph that needs none of this package; once, whatever was cut off before."""
    import mlflow
    import torch

    experiment = client.get_run(run_id).info.experiment_id
    for logged in client.search_logged_models([experiment], filter_string=f"source_run_id = '{run_id}'"):
        if str(logged.status) == "READY":
            return
        client.delete_logged_model(logged.model_id)
    module = resolve_name(NETWORK)(now.folder)
    example = torch.full((EXAMPLE_IMAGES, *module.image_shape), 0.5)
    with torch.no_grad():
        classes = module(example).shape[1]
    # Made here, since log_model would make it in the experiment that MLflow holds for the active one.
    known = now.parameters
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

    fractions = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    number = len(classes)
    side = min(4 + 0.35 * number, 10)
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    # The root of the share: a few percent of confusions must be seen beside a full diagonal.
    image = axes.imshow(np.sqrt(fractions), cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    bar = figure.colorbar(image, ax=axes, shrink=0.8, label="share of the class's images")
    bar.set_ticks(
        [fraction**0.5 for fraction in (0, 0.05, 0.25, 0.5, 1)], labels=["0 %", "5 %", "25 %", "50 %", "100 %"]
    )
    if number <= MOST_NAMES:
        names = [name if len(name) <= 14 else name[:13] + "…" for name in classes]
        axes.set_xticks(range(number), names, rotation=60, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(number), names)
    else:
        axes.set_xticks(range(0, number, NUMBERED_EVERY))
        axes.set_yticks(range(0, number, NUMBERED_EVERY))
    if number <= MOST_NAMES // 2:
        for row, column in np.argwhere(confusion > 0):
            fraction = fractions[row, column]
            colour = "white" if fraction > 0.4 else "black"
            axes.text(column, row, f"{100 * fraction:.0f}", ha="center", va="center", fontsize=8, color=colour)
    axes.set(title=title, xlabel="predicted class", ylabel="class, most training images first")
    return figure


# --- figures of a report --------------------------------------------------------------------

FIGURES = "figures"


def send(figures: Mapping[str, Mapping[str, bytes]], uri: str, experiment: str) -> int:
    """Log files, by their names, to the runs that MLflow has of these fingerprints; the number of such runs.

    Raises:
        UserError: the store cannot be reached.
    """
    client, known = run_ids(uri, experiment)
    there = sorted(figures.keys() & known.keys())
    with tempfile.TemporaryDirectory(prefix="csa-figures-") as folder:
        for fingerprint in there:
            for name, content in figures[fingerprint].items():
                path = Path(folder) / name
                path.write_bytes(content)
                with reaching(uri):
                    client.log_artifact(known[fingerprint], str(path), FIGURES)
    return len(there)
