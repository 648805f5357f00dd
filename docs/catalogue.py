"""Writes what the pages have of ``conf/`` and of the committed tables: ``python docs/catalogue.py``.

That is ``methods.md``, ``protocols.md``, and the counts and the table of the README.
"""

from __future__ import annotations

import csv
import itertools
import re
from pathlib import Path
from typing import TYPE_CHECKING

from csa.config.locations import conf_dir, shipped
from csa.reporting.layout import printed, signed

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
TABLES = HERE.parent / "reports" / "tables"
MADE = "<!-- made by `python docs/catalogue.py` -->"
KEY = re.compile(r"^ *(?P<key>\w+): *(?P<value>\S.*?)(?: +# (?P<comment>.*))?$")
LEADS = re.compile(r" [^.]*:$")
OVERVIEW = re.compile(r"^\| method \| n \|.*?\n\n", flags=re.DOTALL | re.MULTILINE)
COUNTS = re.compile(r"trains \d+ methods against that on \d+ kinds of data")
SHOWN = "cifar_100_lt_ratio_100.md"  # of the tables, in the README
WIRING = ("schema", "name", "target", "streams", "published")
METHODS = f"""# Methods

{MADE}

| `method=` | what it is | under its own recipe: `protocol=` | measured here, accuracy against CE |
| :--- | :--- | :--- | :--- |
{{rows}}

With `protocol=published` a method is trained under the recipe of its own paper, or of whoever ran its published row,
where there is one ([protocols](protocols.md)). Measured are differences in points over equal seeds, at the last epoch,
with the report's verdict ([how to read them](results.md#which-interval-which-verdict)).

`sampler=` (`uniform`, `class_balanced`, `square_root`, `power`, `class_aware`, `reversed`) is for methods that train on
one stream, marked °; the others bring their own.

A method of your own: [CONTRIBUTING](../CONTRIBUTING.md#add-a-method-a-data-set-a-backbone-a-protocol).

## Settings

Each is `method.<key>=`, with its default; `csa run method=<name> --cfg job` shows all of a command's.

{{settings}}
"""
PROTOCOLS = f"""# Protocols: whose recipe is it

{MADE}

A protocol is the recipe around a method: optimiser, schedule, epochs, batch size, augmentation. A data set chooses its
own; the paper's tables compare all methods under one recipe, and `protocol=published` takes the one of the method's own
paper for this kind of data, where there is one ([methods](methods.md)).

| `protocol=` | whose | epochs | batch | optimiser: rate, decay of weights | schedule |
| :--- | :--- | ---: | ---: | :--- | :--- |
{{rows}}

Your own images have `finetune` where the backbone has weights, else `small` (lists of files: `imagenet`).

- `protocol.epochs=20` shortens a run: warm-up (an epoch at least), milestones and switch points scale with it. It
  shortens the first stage only; the second has `protocol.stage_two.epochs`, LWS's on ImageNet-LT
  `protocol.stage_two.scales_epochs`. The run says at its end that it is not comparable with full ones.
- In any protocol: `protocol.optimizer=sgd|adamw`, `layer_decay`, `clip_norm`, `label_smoothing`, and `ema=0.999`, an
  average of the weights that is evaluated and kept in their place.
- `protocol.augment=auto|rand|sim` (AutoAugment, RandAugment, SimAugment) and `protocol.cutout=16` strengthen the
  augmentation of any recipe.
- What a recipe has beyond the table is explained line by line in `conf/protocol/`.

A recipe of your own: [CONTRIBUTING](../CONTRIBUTING.md#add-a-method-a-data-set-a-backbone-a-protocol).
"""


def pages() -> dict[str, str]:
    """Each page by its path from here."""
    methods, protocols = _options("method"), _options("protocol")
    return {
        "methods.md": METHODS.format(
            rows="\n".join(map(_method, methods)), settings="\n\n".join(filter(None, map(_settings, methods)))
        ),
        "../README.md": _readme(len(methods), len(_options("dataset"))),
        "protocols.md": PROTOCOLS.format(rows="\n".join(map(_protocol, protocols))),
    }


def _readme(methods: int, kinds: int) -> str:
    """As it stands, with what there is now."""
    text = (HERE.parent / "README.md").read_text(encoding="utf-8")
    (overview,) = OVERVIEW.findall((TABLES / SHOWN).read_text(encoding="utf-8"))
    text = COUNTS.sub(f"trains {methods} methods against that on {kinds} kinds of data", text)
    return OVERVIEW.sub(lambda _: overview, text)


def _options(group: str) -> list[str]:
    return sorted(path.stem for path in (conf_dir() / group).glob("[!_]*.yaml"))


def _method(name: str) -> str:
    block = shipped("method", name)
    assert block is not None
    mark = "°" if block["streams"] == "sampler" else ""
    recipes = ", ".join(f"`{recipe}`" for recipe in block["published"])
    return f"| `{name}`{mark} | {_header('method', name)} | {recipes} | {'; '.join(_measured(name))} |"


def _protocol(name: str) -> str:
    block = shipped("protocol", name)
    assert block is not None
    rates = f"{block['optimizer']}: {block['lr']:g}, {block['weight_decay']:g}"
    columns = (_header("protocol", name), block["epochs"], block["batch_size"], rates, block["schedule"])
    return f"| `{name}` | {' | '.join(map(str, columns))} |"


def _measured(method: str) -> Iterator[str]:
    """Of the method as its file has it, data set by data set."""
    for path in sorted(TABLES.glob("*_ratio_*.csv")):
        with path.open(newline="", encoding="utf-8") as stream:
            for row in csv.DictReader(stream):
                if row["method"] == method and row["verdict"] and not row["settings"]:
                    yield f"{printed(row['dataset'])} {signed(float(row['difference']))} ({row['verdict']})"


def _settings(name: str) -> str:
    found = (KEY.match(line) for line in _lines("method", name))
    keys = [one for one in found if one and one["key"] not in WIRING]
    lines = [f"- `{one['key']}: {one['value']}`" + (f": {one['comment']}" if one["comment"] else "") for one in keys]
    return "\n".join([f"### {name}", "", *lines]) if lines else ""


def _header(group: str, name: str) -> str:
    """The sentences at the top of a file of ``conf/``, without those that lead to a command."""
    top = itertools.takewhile(lambda line: line.startswith("#"), _lines(group, name))
    text = " ".join(line.removeprefix("# ") for line in top if not line.startswith(("# @", "#   ")))
    return LEADS.sub("", text).replace("|", "\\|")


def _lines(group: str, name: str) -> list[str]:
    return (conf_dir() / group / f"{name}.yaml").read_text(encoding="utf-8").splitlines()


if __name__ == "__main__":
    for name, text in pages().items():
        (HERE / name).write_text(text, encoding="utf-8")
