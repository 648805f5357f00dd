"""Class counts, shot groups, total, hash of a data set's split, and images that stand in two of its parts.

python -m csa.data dataset=cifar100_lt [dataset.imbalance_ratio=50 ...] [format=json]
python -m csa.data dataset=imagenet_lt [check=lists]     image files are all decoded once, unless check=lists
"""

from __future__ import annotations

import hashlib
import json
import sys
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from csa.cli import answer_help, reporting_faults, say
from csa.config.faults import Fault, UserError, listed
from csa.data.cache_folder import UNREADABLE, content_hashes
from csa.data.dataset import cache_faults, load_split
from csa.data.image_files import ImageFiles
from csa.data.split import HOLDOUT, TEST, TRAIN
from csa.request import KEYS, configure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from csa.config.schema import Config
    from csa.data.split import Groups, Images, Split

WORDS: dict[str, tuple[str, ...]] = {"format": ("table", "json"), "check": ("images", "lists")}
TAKES = ("dataset", "data_dir", "download", "output_root")
MOST_TOLD = 20
BAR = 8  # columns of the largest class
PARTS = {TRAIN: "training", HOLDOUT: "validation", TEST: "test"}


def main(words: list[str]) -> None:
    answer_help(words, __doc__)
    with reporting_faults():
        # All words of csa.run may stand there: what would that command train on?
        config, extra = configure(words, extra=WORDS, takes=TAKES, passes_over=KEYS)
        show(config, extra["format"], decode=extra["check"] == "images")


def show(config: Config, form: str, *, decode: bool = True) -> None:
    """Print the split that the configuration describes, as a ``table`` or as ``json``.

    decode: whether images that lie in files are all read; damaged ones are told, and end in a UserError
    unless the configuration skips them.
    """
    split = load_split(config.dataset, config.data_dir, config.download)
    for note in split.notes:
        say(note, aside=True)
    if faults := cache_faults(split):
        raise UserError(*faults)
    if decode:
        check_files(split)
    twice = duplicates(split) if decode or not split.files else {}
    for (first, second), positions in twice.items():
        where = listed_names(split, second, positions)
        say(f"{len(positions)} {PARTS[second]} image(s) are {PARTS[first]} images too: {where}", aside=True)
    if form == "json":
        counted = {f"{first}, {second}": len(positions) for (first, second), positions in twice.items()}
        print(json.dumps({**describe(split, config.dataset.imbalance_ratio), "duplicates": counted}))
    else:
        print_tables(split)


def check_files(split: Split) -> None:
    """Decode every image that lies in a file.

    Raises:
        UserError: there are damaged ones, and they are not to be skipped.
    """
    from rich.progress import track

    from csa.console import PlainConsole
    from csa.data.pictures import decoding_faults

    console = PlainConsole(stderr=True)
    faults, skipped = [], []
    for part, images in split.files.items():
        reasons = track(
            decoding_faults(images), f"decoding {part}", len(images), console=console, disable=not console.is_terminal
        )
        damaged = {position: why for position, why in enumerate(reasons) if why}
        key, names = f"dataset ({part})", images.names
        broken = [
            Fault(key, names[position], f"cannot be read as an image ({why})") for position, why in damaged.items()
        ]
        if images.skip_unreadable:
            skipped += broken
            faults += _beyond_skipping(split, part, list(damaged))
        else:
            faults += broken
    for fault in skipped:
        console.print(f"skipped: {fault}")
    if faults:
        more = len(faults) - MOST_TOLD
        others = [Fault("dataset", "...", f"and {more} more files that cannot be read")] if more > 0 else []
        raise UserError(*faults[:MOST_TOLD], *others)


def _beyond_skipping(split: Split, part: str, damaged: list[int]) -> list[Fault]:
    """Damage that ends a run although damaged files are passed over."""
    whole = np.delete(split.labels[part], damaged)
    if part == TRAIN:
        lost = np.setdiff1d(split.labels[part], whole)
        return [Fault("dataset (train)", split.classes[k], "has no training image that can be read") for k in lost]
    return [] if len(whole) or not damaged else [Fault("dataset", part, "has no image that can be read")]


def duplicates(split: Split) -> dict[tuple[str, str], list[int]]:
    """By two parts, positions in the second of images that the first has too, pixel by pixel or byte by byte."""
    hashes = {part: _hashes(images) for part, images in split.images.items()}
    found = {}
    for first, second in combinations(PARTS, 2):
        known = set(hashes[first]) - {UNREADABLE}
        found[first, second] = [position for position, one in enumerate(hashes[second]) if one in known]
    return {parts: positions for parts, positions in found.items() if positions}


def _hashes(images: Images) -> Sequence[str | bytes]:
    if isinstance(images, ImageFiles):
        return content_hashes(images.root, images.names.tolist(), images.stamps, images.cache)
    return [hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in images]


def listed_names(split: Split, part: str, positions: Sequence[int]) -> str:
    """The first of some images of a part, by file where they lie in files, with their classes."""
    files = split.files.get(part)
    names = [str(position if files is None else files.names[position]) for position in positions]
    classes = [split.classes[split.labels[part][position]] for position in positions]
    return listed([f"{name} ({of_class})" for name, of_class in zip(names, classes, strict=True)], 3)


def describe(split: Split, ratio: float) -> dict[str, Any]:
    """Plain values; groups are class indices, by rank (the paper's rule) and by count."""
    return {
        "name": split.name,
        "imbalance_ratio": ratio,
        "counts": list(split.counts),
        "total": sum(split.counts),
        "groups": split.by_rank.as_lists(),
        "groups_by_count": split.by_count.as_lists(),
        "largest_over_smallest": max(split.counts) / min(split.counts),
        "part_counts": counts_by_part(split),
        "test": len(split.test_labels),
        "holdout": len(split.holdout_labels),
        "hash": split.hash,
    }


def counts_by_part(split: Split) -> dict[str, list[int]]:
    """Images of each class [K] in each part that has some."""
    counted = {part: np.bincount(split.labels[part], minlength=len(split.classes)).tolist() for part in PARTS}
    return {part: counts for part, counts in counted.items() if sum(counts)}


def print_tables(split: Split) -> None:
    """A row a class, then the groups; narrow enough for 80 columns."""
    from csa.console import FoldedTable, PlainConsole

    console = PlainConsole()
    by_rank, by_count = _group_of(split.by_rank), _group_of(split.by_count)
    classes = FoldedTable("class", "name", title=split.name)
    counts = counts_by_part(split)
    for part in counts:
        classes.add_column({HOLDOUT: "val"}.get(part, part), justify="right")
    for heading in ("", "by rank", "by count"):
        classes.add_column(heading)
    for k, (name, images) in enumerate(zip(split.classes, split.counts, strict=True)):
        bar = "▇" * max(1, round(BAR * images / max(split.counts)))
        classes.add_row(str(k), name, *(str(of_part[k]) for of_part in counts.values()), bar, by_rank[k], by_count[k])
    console.print(classes)

    headings = ("classes by rank", "images", "classes by count", "images")
    groups = FoldedTable("group")
    for heading in headings:
        groups.add_column(heading, justify="right")
    counted = split.by_count.as_lists()
    for group, ranked in split.by_rank.as_lists().items():
        parts = ranked, counted[group]
        groups.add_row(group, *(str(n) for part in parts for n in (len(part), sum(split.counts[k] for k in part))))
    console.print(groups)
    console.print(f"training images {sum(split.counts)}")
    console.print(f"test images     {len(split.test_labels)}")
    if len(split.holdout_labels):
        console.print(f"held out        {len(split.holdout_labels)}")
    ratio = max(split.counts) / min(split.counts)
    console.print(f"ratio           {ratio:.4g} ({max(split.counts)} to {min(split.counts)} training images a class)")
    console.print(f"hash            {split.hash}")


def _group_of(groups: Groups) -> dict[int, str]:
    return {k: name for name, classes in groups.as_lists().items() for k in classes}


if __name__ == "__main__":
    main(sys.argv[1:])
