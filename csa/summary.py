"""What a run prints when it ends: its accuracies, where its record lies, how to browse it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.table import Table

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

GROUPS = ("many", "medium", "few", "all")


def print_result(console: Console, result: dict[str, Any], folder: Path) -> None:
    run = result["run"]
    console.print(
        accuracy_table(result, f"{run['method']} on {run['dataset']}, seed {run['seed']}: test accuracy in %")
    )
    if result["collapsed"]:
        console.print("[bold red]collapsed[/]: the network predicts a single class; the tables will mark this run")
    rate = result["images_per_second"]
    speed = f" ({rate:,.0f} training images/s)" if rate else ""
    console.print(f"{result['epochs']} epochs in {result['seconds']:.1f} s{speed}", highlight=False)
    console.print(f"record: {folder}", highlight=False, soft_wrap=True)


def accuracy_table(result: dict[str, Any], title: str) -> Table:
    """Many, medium, few, all of each head at the last epoch, and ``all`` at the best epoch on the test set."""
    table = Table(title=title, title_justify="left")
    table.add_column("head")
    for group in GROUPS:
        table.add_column(group, justify="right")
    table.add_column("best on test", justify="right")
    table.add_column("ECE", justify="right")
    for head, scores in result["heads"].items():
        last, best = scores["last"], scores["best_on_test"]
        name = f"{head} *" if head == result["head"] else head
        cells = [_percent(last[group]) for group in GROUPS]
        table.add_row(name, *cells, f"{best['all']:.2f} (epoch {best['epoch'] + 1})", _percent(last["ece"]))
    table.caption = "* stands for the run; last epoch unless said otherwise"
    table.caption_justify = "left"
    return table


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
