"""What an exported model says of itself: to programs its contract, to people its card (Mitchell et al. 2019)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml  # type: ignore[import-untyped]

from csa.console import two_decimals
from csa.metrics import GROUPS
from csa.reporting.layout import printed
from csa.reporting.rendering import rendered
from csa.tracking.exported import of_the_run
from csa.tracking.record import software

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from csa.tracking.run import Run

CHANNELS = {1: "grey", 3: "RGB"}
MEASURES = {
    "all": "all", "balanced": "balanced", **{group: group for group in GROUPS},
    "macro_f1": "macro F1", "g_mean": "G-mean", "ece": "ECE",
}  # fmt: skip
WEAKEST = 5


def contract(run: Run, head: str) -> dict[str, Any]:
    """The names of the classes, what goes in and what comes out, and where the model is from; plain values."""
    split = run.result["split"]
    channels, height, width = split["image_shape"]
    shape = ["batch", channels, height, width]
    channel = CHANNELS.get(channels, f"{channels} channels")
    divisor = run.temperature(head)
    made_by = software()
    heated = "" if divisor is None else f" of the logits divided by {divisor:.6g}"
    return {
        "classes": split["classes"],
        "input": {"images": {"type": "float32", "shape": shape, "range": [0, 1], "channels": channel}},
        "outputs": {
            "logits": {"type": "float32", "shape": ["batch", len(split["classes"])]},
            "probabilities": {"type": "float32", "shape": ["batch", len(split["classes"])]},
        },
        "normalisation": "inside the network",
        "probabilities": f"the method's{heated}",
        "temperature": divisor,
        "head": head,
        "fingerprint": run.fingerprint,
        "run": run.result["run"],
        "versions": {"python": made_by["python"], **made_by["packages"]},
    }


def model_card(run: Run, promised: dict[str, Any], file: str, same: int) -> str:
    """Markdown. promised: the contract; file: of the exported model; same: its test images classified as recorded."""
    result, split = run.result, run.result["split"]
    scores = result["heads"][promised["head"]]
    known = [("Test images, last epoch", split["test_images"], scores["last"])]
    known += [("Validation images", split["holdout_images"], scores["holdout"])] if "holdout" in scores else []
    return rendered(
        "model_card.md.j2",
        title=f"{printed(run.method)} on {printed(run.dataset)}",
        file=file,
        quoted_file=repr(file),
        same=same,
        run=run,
        result=result,
        split=split,
        contract=promised,
        measures=list(MEASURES.values()),
        accuracies=[
            (name, images, [two_decimals(of.get(measure)) for measure in MEASURES]) for name, images, of in known
        ],
        groups=list(_groups(split, scores["last"])),
        weakest=_weakest(split["classes"], scores["last"]["per_class"]),
        recipe=yaml.safe_dump(of_the_run(run.config), allow_unicode=True).splitlines(),
    )


def _groups(split: dict[str, Any], scores: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Name, number of classes, training images of each, accuracy; by class rank, then by count."""
    for rule, accuracies in (("by_rank", scores), ("by_count", scores["by_count"])):
        for group in GROUPS:
            counts = [split["counts"][k] for k in split[rule][group]]
            images = f"{max(counts):,} to {min(counts):,}" if counts else "-"
            yield f"{group}, {rule.replace('_', ' ')}", str(len(counts)), images, two_decimals(accuracies[group])


def _weakest(classes: Sequence[str], per_class: Sequence[float | None]) -> list[tuple[str, str]]:
    known = sorted((accuracy, k) for k, accuracy in enumerate(per_class) if accuracy is not None)
    return [(classes[k], two_decimals(accuracy)) for accuracy, k in known[:WEAKEST]]
