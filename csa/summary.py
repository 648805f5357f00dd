"""What a run prints: at its outset what it is about to do, at its end its accuracies, its record, what to do next."""

from __future__ import annotations

import shlex
import shutil
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.text import Text

from csa.config.blocks import build_block
from csa.config.locations import shipped
from csa.config.schema import MethodConfig, SamplerConfig
from csa.console import FoldedTable, counting, two_decimals
from csa.data.long_tail import groups_by_rank

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from csa.config.schema import Config
    from csa.console import PlainConsole
    from csa.data.split import Split
    from csa.tracking.record import Record

GROUPS = ("many", "medium", "few", "all", "balanced")
PLAIN = "ce"
"""The method that others are seen beside."""
SEEDS = 5
"""Of a sweep that is proposed: the fewest of which a table says by a test whether one method is better."""


def print_outset(console: PlainConsole, config: Config, split: Split, folder: Path) -> None:
    """What is about to run, before anything that takes long."""
    counts = split.counts
    images = f"{sum(counts):,} training images, {max(counts)} to {min(counts)} of each of {len(counts)} classes"
    console.print(f"{config.method.name} on {config.dataset.name}: {images}, {len(split.test_labels):,} test images")
    recipe = f"recipe {config.protocol.name}, {counting(config.protocol.epochs, 'epoch')}, seed {config.seed}"
    console.print(f"{config.backbone.name}, {recipe}")
    console.print(f"to {folder}")


def keep_shown_settings(config: Config, record: Record) -> bool:
    """Of a finished run: its numbers become those of the head and of the shot groups that are asked for now.

    Every head is measured in every run, and groups are means over classes, so nothing is trained
    (``method.primary_head``, ``dataset.groups``). Whether others stood for it before.
    """
    result = record.result
    groups = groups_by_rank(result["split"]["counts"], config.dataset.groups)
    return record.let_stand(getattr(config.method, "primary_head", result["head"]), groups.as_lists())


def as_plain(config: Config) -> Config | None:
    """The same run of cross-entropy on batches as they come; None where it is that already."""
    method, sampler = shipped("method", PLAIN), shipped("sampler", "uniform")
    assert method is not None
    assert sampler is not None
    plain = replace(config, method=build_block(MethodConfig, method), sampler=build_block(SamplerConfig, sampler))
    return None if plain == config else plain


def print_result(
    console: PlainConsole, config: Config, result: dict[str, Any], folder: Path, plain: dict[str, Any] | None = None
) -> None:
    """plain: the result of ``as_plain``, where that is recorded."""
    run = result["run"]
    title = f"{run['method']} on {run['dataset']}, seed {run['seed']}: test accuracy in %"
    print_accuracies(console, result, title, plain)
    if result["collapsed"]:
        warned = Text.assemble(
            ("collapsed", "bold red"), ": the network predicts a single class; the tables will mark this run"
        )
        console.print(warned)
    if chosen := result.get("chosen"):
        kept = ", ".join(f"{stage} {epoch + 1}" for stage, epoch in chosen["epochs"].items())
        console.print(f"kept: the epoch that was best on the validation images ({kept})")
    rate = result["images_per_second"]
    speed = f" ({rate:,.0f} training images/s)" if rate else ""
    reused = result["reused_epochs"]
    taken_over = f"; {reused} taken over from a finished run" if reused else ""
    trained = f"epochs: {result['epochs'] - reused} in {result['seconds']:.1f} s{speed}{taken_over}"
    console.print(trained)
    recipe, epochs = shipped("protocol", config.protocol.name), config.protocol.epochs
    if recipe and epochs < recipe["epochs"]:
        console.print(f"cut short: {epochs} of the recipe's {recipe['epochs']} epochs; not comparable with full runs")
    if skipped := result.get("unreadable_images"):
        console.print(f"skipped images that cannot be read: {skipped}; log.txt names them")
    console.print(f"record: {folder}")


def next_commands(config: Config, words: Sequence[str], tree: Sequence[str] = ()) -> str:
    """Three that are worth typing after a single run, with the words that it was started with; tree: --config-dir."""
    csa = "csa " if shutil.which("csa") else f"{sys.orig_argv[0]} -m csa."
    kept = [word for word in words if word.partition("=")[0] not in ("method", "seed", "rerun")]
    own = [*tree, *(word for word in words if word.startswith("output_root="))]
    if any(word.startswith(("method.", "sampler")) for word in words):  # which the other method may not know
        methods = config.method.name
    else:
        methods = f"{PLAIN},{config.method.name if config.method.name != PLAIN else 'csa'}"
    seeds = ",".join(str(config.seed + more) for more in range(SEEDS))
    commands = {
        ("run", "-m", *tree, *kept, f"method={methods}", f"seed={seeds}"): "over seeds; what is done is not repeated",
        ("report", *own): "tables, figures and a page of all that is recorded",
        ("evaluate", "run=latest", "images=folder", *own): "what it takes your own images for",
    }
    lines = [f"  {csa}{shlex.join(command)}   # {why}" for command, why in commands.items()]
    return "\n".join(["next:", *lines])


def objective(result: dict[str, Any]) -> float:
    """Accuracy in percent of the primary head, as it is kept, on the validation images where there are any."""
    scores = result["heads"][result["head"]]
    return float(scores.get("holdout", scores["last"])["all"])


def print_accuracies(
    console: PlainConsole, result: dict[str, Any], title: str, plain: dict[str, Any] | None = None
) -> None:
    """Accuracies and calibration of each head at the last epoch, in 80 columns.

    And ``all`` at the epoch that was best on the test set, where the heads have one. plain: another result, whose
    head that stands for it is shown below.
    """
    heads = result["heads"] if plain is None else result["heads"] | {PLAIN: plain["heads"][plain["head"]]}
    with_best = all("best_on_test" in scores for scores in heads.values())
    table = FoldedTable(caption_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True, show_edge=False)
    table.add_column("head")
    for heading in (*GROUPS, *(["best (epoch)"] if with_best else []), "ECE"):
        table.add_column(heading, justify="right")
    for head, scores in heads.items():
        last, best = scores["last"], scores.get("best_on_test", {})
        shown_best = [f"{best['all']:.2f} ({best['epoch'] + 1})"] if with_best else []
        cells = [*(two_decimals(last[group]) for group in GROUPS), *shown_best, two_decimals(last["ece"])]
        table.add_row(f"{head} *" if head == result["head"] else head, *cells)
    notes = ["* stands for the run", *([f"{PLAIN}: the same run of it"] if plain else [])]
    table.caption = "; ".join([*notes, *(["best: the epoch with the most right"] if with_best else [])])
    console.print(title)
    console.print(table)
