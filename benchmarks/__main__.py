"""The speed of csa, each number beside a reference that is measured in the same process.

python -m benchmarks                                           everything, whole epochs: 45 minutes on two cores
python -m benchmarks rows=bare,product repeats=3 threads=2
python -m benchmarks steps=20 to=speed.json                    20 steps of an epoch, the others extrapolated

rows     machine    matrix products: the peak that the bare network is held against
         bare       the network's training step and evaluation forward on random images
         product    an epoch and an evaluation of ce, csa, csa with the training pass re-used
         reference  the same plainly written: PIL, DataLoader, fp32, hooks
         startup    --help, a mistake, the default run, in fresh processes; memory of a csa epoch
         gpu        1, 2, 4, 8 runs at once; skipped without a GPU
         Rows bring those that they are compared with.
repeats  of every row, which is shown by its median (5)
steps    of an epoch, at most (all)
threads  of torch (all cores)
to       the file for the numbers (benchmarks/results/<hardware>-<date>.json); the table goes beside it as .md
data_dir=folder, runtime.device=cpu, protocol.precision=fp32 and the like are as in csa.run. CIFAR-100-LT is
looked for in data_dir and not downloaded: without it random images stand in its place.
"""

from __future__ import annotations

import datetime
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.order import Order, read_order
from csa.cli import answer_help, reporting_faults

if TYPE_CHECKING:
    from benchmarks.table import Group, Measured
    from csa.data.split import Split
    from csa.training.machine import Machine

RESULTS = Path(__file__).parent / "results"


def main(words: list[str]) -> None:
    answer_help(words, __doc__)
    with reporting_faults():
        order = read_order(words)
        from benchmarks.conditions import describe, slug, split_of
        from csa.training.machine import choose

        config = order.configs["ce"]
        date = datetime.datetime.now(datetime.UTC)
        machine = choose(config.runtime, config.protocol)
        facts = {
            "date": date.isoformat(timespec="seconds"),
            "command": shlex.join(["python", "-m", "benchmarks", *words]),
            **describe(machine),
            "repeats": order.repeats,
            "steps": order.steps,
        }
        split, facts["data"] = split_of(config)
        groups, facts["skipped"] = _groups(order, split, machine)
        rows = measure(groups, order.repeats)
        hardware = slug(facts["machine"]["hardware"])
        tell(facts, rows, order.to or RESULTS / f"{hardware}-{date:%Y-%m-%d}.json")


def _groups(order: Order, split: Split, machine: Machine) -> tuple[dict[str, Group], list[dict[str, str]]]:
    """What is measured, and what cannot be."""
    from benchmarks.conditions import Bare, MatrixProducts
    from benchmarks.product import AtOnce, Product, StartUp
    from benchmarks.reference import Reference

    makers: dict[str, Any] = {
        "machine": lambda: MatrixProducts(machine),
        "bare": lambda: Bare(order.configs["ce"], split, machine, order.steps),
        "product": lambda: Product(order.configs, split, machine, order.steps),
        "reference": lambda: Reference(order.configs["csa"], split, machine.device, order.steps),
        "startup": lambda: StartUp(order.words, order.configs["ce"].runtime.threads),
        "gpu": lambda: AtOnce(order.words),
    }
    skipped = []
    if "gpu" in order.rows and machine.device.type != "cuda":
        del makers["gpu"]
        skipped.append({"rows": "gpu", "why": "this machine has no CUDA device, or runtime.device=cpu"})
    return {name: maker() for name, maker in makers.items() if name in order.rows}, skipped


def measure(groups: dict[str, Group], repeats: int) -> list[Measured]:
    """All groups, again and again: what is compared is measured close together."""
    from benchmarks.table import measured

    values: dict[str, list[float]] = {row.name: [] for group in groups.values() for row in group.rows}
    for repeat in range(repeats):
        for name, group in groups.items():
            print(f"repeat {repeat + 1} of {repeats}: {name}", file=sys.stderr, flush=True)
            for row, value in group.measure().items():
                values[row].append(value)
    return measured([row for group in groups.values() for row in group.rows], values)


def tell(facts: dict[str, Any], rows: list[Measured], to: Path) -> None:
    """Print the table; write the numbers, and the table beside them."""
    from benchmarks.table import as_json, as_markdown, as_table, conditions
    from csa.console import PlainConsole
    from csa.tracking.files import write_json, write_text

    console = PlainConsole()
    console.print(as_table(rows))
    for line in conditions(facts):
        console.print(line)
    to.parent.mkdir(parents=True, exist_ok=True)
    write_json(to, as_json(facts, rows))
    write_text(to.with_suffix(".md"), as_markdown(facts, rows))
    console.print(f"written: {to} and {to.with_suffix('.md').name}")


if __name__ == "__main__":
    main(sys.argv[1:])
