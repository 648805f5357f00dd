"""What a run prints when it ends: its accuracies, where its record lies, how to browse it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.text import Text

from csa.console import FoldedTable, counting
from csa.data.long_tail import groups_by_rank

if TYPE_CHECKING:
    from pathlib import Path

    from csa.config.schema import Config
    from csa.console import PlainConsole
    from csa.data.split import Split
    from csa.tracking.record import Record

GROUPS = ("many", "medium", "few", "all", "balanced")


def print_outset(console: PlainConsole, config: Config, split: Split, folder: Path) -> None:
    """What is about to run, before anything that takes long."""
    counts = split.counts
    images = f"{sum(counts):,} training images, {max(counts)} to {min(counts)} of each of {len(counts)} classes"
    console.print(f"{config.method.name} on {config.dataset.name}: {images}, {len(split.test_labels):,} test images")
    recipe = f"recipe {config.protocol.name}, {counting(config.protocol.epochs, 'epoch')}, seed {config.seed}"
    console.print(f"{config.backbone.name}, {recipe}; record: {folder}")


def let_asked_stand(config: Config, record: Record) -> bool:
    """Of a finished run: its numbers become those of the head and of the shot groups that are asked for now.

    Every head is measured in every run, and groups are means over classes, so nothing is trained
    (``method.primary_head``, ``dataset.groups``). Whether others stood for it before.
    """
    result = record.result()
    groups = groups_by_rank(result["split"]["counts"], config.dataset.groups)
    return record.let_stand(getattr(config.method, "primary_head", result["head"]), groups.as_lists())


def print_result(console: PlainConsole, result: dict[str, Any], folder: Path) -> None:
    run = result["run"]
    print_accuracies(console, result, f"{run['method']} on {run['dataset']}, seed {run['seed']}: test accuracy in %")
    if result["collapsed"]:
        warned = Text.assemble(
            ("collapsed", "bold red"), ": the network predicts a single class; the tables will mark this run"
        )
        console.print(warned)
    if chosen := result.get("chosen"):
        kept = ", ".join(f"{stage} {epoch + 1}" for stage, epoch in chosen["epochs"].items())
        console.print(f"kept: the epoch that was best on the validation images ({kept})")
    if skipped := result.get("unreadable_images"):
        console.print(f"skipped images that cannot be read: {skipped}; log.txt names them")
    rate = result["images_per_second"]
    speed = f" ({rate:,.0f} training images/s)" if rate else ""
    reused = result["reused_epochs"]
    taken_over = f"; {reused} taken over from a finished run" if reused else ""
    trained = f"epochs: {result['epochs'] - reused} in {result['seconds']:.1f} s{speed}{taken_over}"
    console.print(trained)
    console.print(f"record: {folder}")


def objective(result: dict[str, Any]) -> float:
    """Accuracy in percent of the primary head, as it is kept, on the validation images where there are any."""
    scores = result["heads"][result["head"]]
    return float(scores.get("holdout", scores["last"])["all"])


def print_accuracies(console: PlainConsole, result: dict[str, Any], title: str) -> None:
    """Accuracies and calibration of each head at the last epoch, in 80 columns.

    And ``all`` at the epoch that was best on the test set, where the heads have one.
    """
    heads = result["heads"]
    with_best = all("best_on_test" in scores for scores in heads.values())
    table = FoldedTable(caption_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True, show_edge=False)
    table.add_column("head")
    for heading in (*GROUPS, *(["best (epoch)"] if with_best else []), "ECE"):
        table.add_column(heading, justify="right")
    for head, scores in heads.items():
        last, best = scores["last"], scores.get("best_on_test", {})
        shown_best = [f"{best['all']:.2f} ({best['epoch'] + 1})"] if with_best else []
        cells = [*(_percent(last[group]) for group in GROUPS), *shown_best, _percent(last["ece"])]
        table.add_row(f"{head} *" if head == result["head"] else head, *cells)
    table.caption = "* stands for the run" + ("; best: the epoch with the most right" if with_best else "")
    console.print(title)
    console.print(table)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
