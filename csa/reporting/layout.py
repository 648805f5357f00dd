"""What a report consists of, before any format: sections with grids of cells; how names and numbers are written."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from csa.console import PLUS_MINUS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

DASH, MINUS = "–", "−"  # noqa: RUF001
OUTSIDE, COLLAPSED = "*", "‡"
SMALLEST_P = 0.0001
CSV_DIGITS = 4  # the last bits of a quantile differ between versions of scipy

PRINTED = {
    "mnist_lt": "MNIST-LT",
    "fashion_lt": "Fashion-LT",
    "cmnist_lt": "CMNIST-LT",
    "cifar10_lt": "CIFAR-10-LT",
    "cifar100_lt": "CIFAR-100-LT",
    "imagenet_lt": "ImageNet-LT",
    "places_lt": "Places-LT",
    "inat18": "iNaturalist 2018",
    "tiny_imagenet_lt": "Tiny-ImageNet-LT",
    "digits_lt": "Digits-LT",
    "lenet": "LeNet",
    "resnet32": "ResNet-32",
    "resnet10": "ResNet-10",
    "resnet18": "ResNet-18",
    "resnet50": "ResNet-50",
    "resnet152": "ResNet-152",
    "resnet152_last_block": "ResNet-152, last block",
    "ce": "CE",
    "crt": "cRT",
    "cbrs": "CB-RS",
    "csa": "CSA",
    "csa_mixup": "CSA + mixup",
    "focal": "Focal loss",
    "cb_focal": "CB-Focal",
    "ce_drs": "CE-DRS",
    "ce_drw": "CE-DRW",
    "ldam_drw": "LDAM-DRW",
    "lws": "LWS",
    "tau_norm": "tau-norm.",
    "bbn": "BBN",
    "mixup": "mixup",
    "remix": "Remix",
    "m2m": "M2m",
    "cam_bs": "CAM-BS",
    "cmo": "CMO",
    "crt_mixup": "cRT + mixup",
    "lws_mixup": "LWS + mixup",
    "oltr": "OLTR",
    "fsa": "FSA",
    "logit_adjustment": "Logit adj.",
    "logit_adjustment_post_hoc": "Post-hoc LA",
    "balanced_softmax": "Bal. softmax",
    "weight_balancing": "Weight bal.",
    "ride": "RIDE",
    "sade": "SADE",
    "glmc": "GLMC",
    "bcl": "BCL",
    "gpaco": "GPaCo",
    "all": "All",
    "many": "Many",
    "medium": "Med.",
    "few": "Few",
}
"""How data sets, backbones, methods and metrics are called in print; what is not listed keeps its own name."""

AUGMENTATIONS = {"standard": "", "auto": "AutoAugment", "rand": "RandAugment", "sim": "SimAugment"}


@dataclass(frozen=True)
class Drawn:
    """A figure: name of its files without ending, caption, content by ending.

    section: name of the table that it belongs beside, empty for none. points: of a figure of networks what it can be
    drawn from without them (``csa.figures.representation``), else empty.
    """

    name: str
    caption: str
    files: dict[str, bytes]
    fingerprints: tuple[str, ...] = ()
    points: bytes = b""
    section: str = ""

    @property
    def with_caption(self) -> dict[str, bytes]:
        """Its files by their names, and the caption as text."""
        pictures = {f"{self.name}.{ending}": content for ending, content in self.files.items()}
        return {**pictures, f"{self.name}.txt": (self.caption + "\n").encode()}

    @property
    def kind(self) -> str:
        """``per class``, of a section."""
        return self.name.removesuffix(f"_{self.section}").replace("_", " ")

    @property
    def title(self) -> str:
        """``Figure 4``, ``Figure 2, MNIST-LT``, ``Per class, mine``."""
        figure = next((name for name in ("per_class",) if self.name.startswith(name)), self.name.partition("_")[0])
        of = self.name.removeprefix(figure).removeprefix("_")
        title = figure.replace("figure", "Figure ").replace("_", " ").capitalize()
        return f"{title}, {printed(of)}" if of else title


@dataclass(frozen=True)
class Cell:
    """value: what a column is sorted by, None or NaN at its end; kind: how it is marked."""

    text: str
    value: float | str | None = None
    kind: str = ""


@dataclass(frozen=True)
class Grid:
    """The first column names the rows. groups: headings above the others, each with its number of columns."""

    name: str
    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    groups: tuple[tuple[str, int], ...] = ()

    @property
    def stacked(self) -> list[list[str]]:
        """Of each column the lines of its heading, that of its group among them."""
        if not self.groups:
            return [[heading] for heading in self.headings]
        of = [name.split(", ") for name, width in self.groups for _ in range(width)]
        return [[*lines, heading] for lines, heading in zip([[], *of], self.headings, strict=True)]


@dataclass(frozen=True)
class Section:
    """What stands under one heading. verdict: what a reader in a hurry reads; marks: what a reader of the grid must
    know, notes: what else there is to know; data: the numbers of it; figures: those that stand beside it.
    """

    name: str
    title: str
    verdict: str
    grid: Grid
    marks: tuple[str, ...]
    notes: tuple[str, ...]
    data: pd.DataFrame
    details: tuple[Grid, ...] = ()
    figures: tuple[Drawn, ...] = ()


# --- small texts ----------------------------------------------------------------------------


def printed(name: str) -> str:
    return PRINTED.get(name, name)


def place_in_print(name: str) -> int:
    """In the order of ``PRINTED``; what is not listed comes after it."""
    known = list(PRINTED)
    return known.index(name) if name in known else len(known)


def number(value: float, digits: int = 1) -> str:
    """With the sign that mathematics prints; a dash where there is none."""
    return DASH if is_none(value) else f"{round(value, digits) + 0.0:.{digits}f}".replace("-", MINUS)


def recipe(protocol: Mapping[str, Any], *on: str) -> str:
    """``Protocol cifar: ResNet-32, 200 epochs, ...``; on: what else there is to say of it, before the epochs."""
    parts = [
        *on,
        f"{protocol['epochs']} epochs",
        f"batch {protocol['batch_size']}",
        f"{'AdamW' if protocol.get('optimizer') == 'adamw' else 'SGD'} with learning rate {protocol['lr']:g}",
        f"momentum {protocol['momentum']:g}",
        f"weight decay {protocol['weight_decay']:g}",
        f"{protocol['schedule']} schedule",
    ]
    augmented = [
        "crops" if protocol.get("crop_padding") or protocol.get("resized_crop") else "",
        "flips" if protocol.get("flip") else "",
        AUGMENTATIONS[protocol.get("augment", "standard")],
        "Cutout" if protocol.get("cutout") else "",
    ]
    parts += [listed(names)] if (names := [name for name in augmented if name]) else []
    return f"Protocol {protocol.get('name', '')}: {', '.join(parts)}"


def signed(value: float, digits: int = 1) -> str:
    if is_none(value):
        return DASH
    return ("+" if round(value, digits) > 0 else "") + number(value, digits)


def with_half(text: str, half: float, digits: int = 1) -> str:
    return text if is_none(half) else f"{text} {PLUS_MINUS} {half:.{digits}f}"


def p_text(p: float) -> str:
    return DASH if is_none(p) else f"< {SMALLEST_P}" if p < SMALLEST_P else f"{p:.4f}"


def ranges(numbers: Sequence[int]) -> str:
    """``0-4``, ``0-2, 7``."""
    parts: list[list[int]] = []
    for value in sorted(set(numbers)):
        if parts and value == parts[-1][-1] + 1:
            parts[-1].append(value)
        else:
            parts.append([value])
    return ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]}{DASH}{part[-1]}" for part in parts)


def slug(text: str) -> str:
    """Of file names and links."""
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")[:80] or "_"


def is_none(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def as_printed(value: float) -> str:
    return DASH if is_none(value) else f"{value:.2f}".removesuffix("0")


def listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def as_csv(data: pd.DataFrame) -> str:
    """Numbers unrounded enough to compute with; lists as words."""
    plain = data.drop(columns=["run", "where"], errors="ignore").copy()
    for column in plain.columns:
        if plain[column].map(lambda value: isinstance(value, list)).any():
            plain[column] = plain[column].map(lambda value: " ".join(map(str, value)))
    return str(plain.round(CSV_DIGITS).to_csv(index=False, lineterminator="\n"))
