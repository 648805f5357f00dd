"""A made-up data set in the shape of ImageNet-LT: real JPEG files of all sizes and kinds, and three list files.

    python tests/shaped_tree.py FOLDER [--classes 60] [--largest 300] [--smallest 5] [--of-each 10] [--side 400]

Each class has a colour and a stripe pattern of its own, so that it can be learned. Every 11th image is grey, every
17th CMYK, every 7th turned by an EXIF tag. Labels in the lists are shuffled: sizes do not descend with them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

UPSIDE_DOWN, TURNED = 3, 6  # EXIF orientations
ORIENTATION = 0x0112


def write_tree(
    folder: Path, *, classes: int = 60, largest: int = 300, smallest: int = 5, of_each: int = 10, side: int = 400
) -> None:
    """``train/<class>/*.JPEG``, ``val/*.JPEG`` and ``ImageNet_LT_{train,val,test}.txt`` below the folder.

    of_each: test images a class, and validation images (which lie in ``train``). side: about the longest side.
    """
    draw = np.random.default_rng(0)
    counts = [round(largest * (smallest / largest) ** (k / (classes - 1))) for k in range(classes)]
    labels = draw.permutation(classes).tolist()
    lines: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    number = 0
    for k, label in enumerate(labels):
        name = f"n{10_000_000 + 137 * label}"
        for part, images in (("train", counts[k]), ("val", of_each), ("test", of_each)):
            for _ in range(images):
                number += 1
                place = f"val/made_{number:08d}.JPEG" if part == "test" else f"train/{name}/{name}_{number}.JPEG"
                (folder / place).parent.mkdir(parents=True, exist_ok=True)
                write_picture(folder / place, label / classes, number, draw, side)
                lines[part].append(f"{place} {label}")
    for part, told in lines.items():
        order = draw.permutation(len(told))
        (folder / f"ImageNet_LT_{part}.txt").write_text("".join(f"{told[place]}\n" for place in order))


def write_picture(path: Path, hue: float, number: int, draw: np.random.Generator, side: int) -> None:
    """A picture of a class, given by ``hue`` in [0, 1), with a disc of it somewhere on a noisy background."""
    width, height = draw.integers(side // 3, side + 1, 2).tolist()
    down, right = np.mgrid[0:height, 0:width]
    coarse = draw.integers(40, 216, (height // 16 + 1, width // 16 + 1, 3))
    pixels = np.kron(coarse, np.ones((16, 16, 1)))[:height, :width]
    radius, y, x = min(height, width) / 3, draw.uniform(0.3, 0.7) * height, draw.uniform(0.3, 0.7) * width
    disc = (down - y) ** 2 + (right - x) ** 2 < radius**2
    angle = 2 * np.pi * hue
    colour = 127 + 110 * np.cos(angle + np.array([0, 2.1, 4.2]))
    stripes = 0.6 + 0.4 * np.sin((down * np.cos(angle / 2) + right * np.sin(angle / 2)) * 20 / radius)
    pixels[disc] = colour * stripes[disc][:, None]
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    if number % 11 == 0:
        image = image.convert("L")
    elif number % 17 == 0:
        image = image.convert("CMYK")
    exif = Image.Exif()
    if number % 7 == 0:
        exif[ORIENTATION] = TURNED if number % 2 else UPSIDE_DOWN
    image.save(path, "JPEG", quality=88, exif=exif)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    for name, value in (("classes", 60), ("largest", 300), ("smallest", 5), ("of-each", 10), ("side", 400)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = vars(parser.parse_args())
    write_tree(options.pop("folder"), **options)


if __name__ == "__main__":
    main()
