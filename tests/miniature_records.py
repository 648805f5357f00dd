"""Small records as csa.records exports them, and the stored ones that the expected output is of.

PYTHONPATH=tests python tests/miniature_records.py    writes both anew, below reporting/; read the difference
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from composed import config_of
from omegaconf import OmegaConf
from whole_records import whole_names

from csa.config.identity import fingerprint, identity
from csa.config.schema import Config
from csa.metrics import Scores, class_means, scores
from csa.tracking.exported import export
from csa.tracking.finding import Found, from_records
from csa.tracking.record import Record
from csa.tracking.run import Run

HERE = Path(__file__).parent / "reporting"
RECORDS, EXPECTED = HERE / "records", HERE / "expected"
PER_CLASS = 4  # test images of a class
SPLIT = "5b" * 32
GROUPS = ("many", "medium", "few")
NAMED = ("dataset", "method", "backbone", "protocol", "sampler")

# Method, seeds, further words, share of right images of each third of the classes.
STORED: tuple[tuple[str, str, Sequence[int], tuple[str, ...], tuple[float, float, float]], ...] = (
    ("mnist_lt", "ce", range(5), (), (0.95, 0.6, 0.1)),
    ("mnist_lt", "crt", range(5), (), (0.9, 0.8, 0.6)),
    ("mnist_lt", "cbrs", range(2), (), (0.95, 0.9, 0.8)),
    ("mnist_lt", "csa", range(3), (), (0.95, 0.7, 0.4)),
    ("mnist_lt", "ce", (0,), ("protocol.epochs=2",), (0.8, 0.4, 0.0)),
    ("mnist_lt", "cbrs", (1,), ("variant=<b>&amp; $x_1$|y",), (0.5, 0.5, 0.5)),
    ("fashion_lt", "ce", (0,), (), (0.9, 0.5, 0.1)),
    ("cifar100_lt", "csa", (0, 1, 2), ("delta=0.3",), (0.6, 0.5, 0.2)),
)
COLLAPSED = ("mnist_lt", "csa", 1)


def write_stored(to: Path) -> None:
    for dataset, method, seeds, words, shares in STORED:
        for seed in seeds:
            collapsed = (dataset, method, seed) == COLLAPSED and not words
            write(to, dataset, method, seed, *words, shares=shares, collapsed=collapsed)


def write(
    to: Path,
    dataset: str,
    method: str,
    seed: int,
    *words: str,
    shares: tuple[float, float, float] = (0.9, 0.6, 0.3),
    collapsed: bool = False,
    **more: Any,
) -> Path:
    """Export one made-up run below ``to``; more: replaces parts of its result."""
    with tempfile.TemporaryDirectory() as folder:
        record = make(Path(folder), dataset, method, seed, *words, shares=shares, collapsed=collapsed, **more)
        return export(record, to).path


def make(
    output_root: Path,
    dataset: str,
    method: str,
    seed: int,
    *words: str,
    shares: tuple[float, float, float] = (0.9, 0.6, 0.3),
    collapsed: bool = False,
    **more: Any,
) -> Record:
    """The folder of one made-up run, but for its checkpoint."""
    quoted = [f"variant='{word[8:]}'" if word.startswith("variant=") else word for word in words]
    config = config_of(f"dataset={dataset}", f"method={method}", f"seed={seed}", *quoted)
    who = identity(config, SPLIT)
    name = fingerprint(who)
    record = Record(output_root / dataset / method / f"mini-{name}")
    record.begin(OmegaConf.to_yaml(OmegaConf.structured(config)), who, name)
    _finish(record, config, name, shares, collapsed, more)
    return record


def retell(path: Path, identity: dict[str, Any], config: dict[str, Any]) -> None:
    """Make an exported record that of another run; identity, config: what changes in their blocks."""
    content = json.loads(path.read_text())
    for part, blocks in (("identity", identity), ("config", config)):
        for name, block in blocks.items():
            old = content[part][name]
            content[part][name] = old | block if isinstance(block, dict) else block
    content["result"]["run"] |= {name: content["config"][name]["name"] for name in NAMED}
    content["fingerprint"] = content["result"]["fingerprint"] = fingerprint(content["identity"])
    path.write_text(json.dumps(content))


def _finish(record: Record, config: Config, name: str, shares: Sequence[float], collapsed: bool, more: Any) -> None:
    classes = 100 if config.dataset.name == "cifar100_lt" else 10
    heads = ("uniform", "balanced", "mean") if config.method.name.startswith("csa") else ("classifier",)
    labels = np.arange(classes * PER_CLASS, dtype=np.int32) % classes
    standing = getattr(config.method, "primary_head", heads[0])
    predictions = {head: _predict(labels, name + head, shares, collapsed) for head in heads}
    split = _split(config, classes)
    last = {head: score(labels, predicted, split) for head, predicted in predictions.items()}
    record.write_metrics(
        {"stage": "train", "epoch": epoch, "loss": 2.0 / (epoch + 1), "head": standing, "images": 100,
         "seconds": 1.5, "evaluation_seconds": 0.5, "lr": 0.1,
         "heads": {head: one.summary() for head, one in last.items()}}
        for epoch in range(config.protocol.epochs)
    )  # fmt: skip
    result = {
        "status": "done",
        "fingerprint": name,
        **last[standing].summary(),
        "head": standing,
        "collapsed": collapsed,
        "heads": {head: {"last": one.as_dict(), "best_on_test": better(one, split)} for head, one in last.items()},
        "epochs": config.protocol.epochs,
        "reused_epochs": config.protocol.epochs if config.method.name == "crt" else 0,
        "seconds": 30.0 + config.seed,
        "run": whole_names(
            **{group: getattr(config, group).name for group in NAMED}, seed=config.seed, variant=config.variant
        ),
        "split": split,
        "device": "cpu",
        "threads": 2,
        "python": "3.12.0",
        "step_mode": "eager",
        "packages": {"torch": "2.11.0"},
        "images_per_second": 1000.0,
        "hardware": "Abacus_1 & <sons> [/red], 2 cores",
        "precision": "fp32",
        "training_seconds": 20.0,
        "git_revision": None,
        "git_dirty": None,
        **more,
    }
    arrays = {"labels": labels, **{f"predictions_{head}": predicted for head, predicted in predictions.items()}}
    for head, predicted in predictions.items():
        arrays[f"confusion_{head}"] = last[head].confusion
        # The predicted class gets 2, every other 0.
        arrays[f"logits_{head}"] = (2 * np.eye(classes)[predicted]).astype(np.float16)
    record.finish(result, arrays)


def _predict(labels: np.ndarray, address: str, shares: Sequence[float], collapsed: bool) -> np.ndarray:
    """Every class is right with the share of its third; a wrong image is taken for the next class."""
    if collapsed:
        return np.zeros_like(labels)
    generator = np.random.RandomState(sum(map(ord, address)))
    classes = int(labels.max()) + 1
    right = generator.rand(len(labels)) < np.array(shares)[np.minimum(3 * labels // classes, 2)]
    return np.where(right, labels, (labels + 1) % classes).astype(np.int32)


def _split(config: Config, classes: int) -> dict[str, Any]:
    counts = [int(1000 * 0.01 ** (k / (classes - 1))) for k in range(classes)]
    sizes = config.dataset.groups or [3, 4, 3]
    ends = np.cumsum([0, *sizes])
    by_rank = {name: list(range(ends[i], ends[i + 1])) for i, name in enumerate(GROUPS)}
    by_count = {
        "many": [k for k in range(classes) if counts[k] > 100],
        "medium": [k for k in range(classes) if 20 <= counts[k] <= 100],
        "few": [k for k in range(classes) if counts[k] < 20],
    }
    names = [f"class {k}" for k in range(classes)]
    return {"hash": SPLIT, "classes": names, "counts": counts, "by_rank": by_rank, "by_count": by_count,
            "test_images": classes * PER_CLASS, "holdout_images": 0, "total": sum(counts),
            "image_shape": [1, 28, 28], "mean": [0.5], "std": [0.25]}  # fmt: skip


def score(labels: np.ndarray, predicted: np.ndarray, split: dict[str, Any]) -> Scores:
    classes = len(split["classes"])
    confusion = np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)
    return scores(confusion, 5.0, split["by_rank"], split["by_count"])


def better(last: Scores, split: dict[str, Any]) -> dict[str, Any]:
    """A best epoch a point above the last one in every class."""
    per_class = [min(100.0, accuracy + 1) for accuracy in last.per_class if accuracy is not None]
    means = class_means(per_class, split["by_rank"], split["by_count"])
    return {"epoch": 1, **last.as_dict(), **means, "all": means["balanced"], "per_class": per_class}


def stored_runs(folder: Path = RECORDS) -> list[Run]:
    found = Found()
    found.add(from_records(folder))
    assert not found.left_out
    return found.runs


def outputs(runs: list[Run]) -> dict[str, str]:
    """Every rendering of the stored records by file name: a table a data set, and Tables 1, 3 and 5 of the paper."""
    from csa.console import PlainConsole
    from csa.reporting.frame import frame_of
    from csa.reporting.paper import paper_sections
    from csa.reporting.rendering import as_text, page, print_sections
    from csa.reporting.sections import sections

    frame = frame_of(runs)
    found, papers = sections(frame), paper_sections(frame, ("1", "3", "5"))
    endings = {"markdown": "md", "latex": "tex", "csv": "csv"}
    texts = {f"report.{end}": as_text(form, [*found, *papers], full=True) for form, end in endings.items()}
    console = PlainConsole(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    print_sections(console, [*found, *papers])
    return texts | {"report.html": page(found, papers), "report.txt": console.export_text()}


if __name__ == "__main__":
    shutil.rmtree(RECORDS, ignore_errors=True)
    write_stored(RECORDS)
    EXPECTED.mkdir(exist_ok=True)
    for name, text in outputs(stored_runs()).items():
        (EXPECTED / name).write_text(text)
