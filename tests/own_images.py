"""A folder of own images: 300 pictures of five shapes, a long tail of them for training.

PYTHONPATH=tests python tests/own_images.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 32
TRAINING = {"disc": 80, "ring": 48, "cross": 28, "stripe": 14, "dot": 5}
TEST = 25


def shape(name: str, generator: np.random.RandomState) -> np.ndarray:
    """One picture, uint8 [32, 32, 3]: the shape in a random colour and place on noise."""
    y, x = np.mgrid[:SIDE, :SIDE] - generator.uniform(11, 21, (2, 1, 1))
    r = np.hypot(x, y)
    inside = {
        "disc": r < 8,
        "ring": (r > 5) & (r < 9),
        "cross": (np.minimum(abs(x), abs(y)) < 2) & (r < 10),
        "stripe": abs(x + y) < 3,
        "dot": r < 3,
    }[name]
    picture = generator.randint(0, 120, (SIDE, SIDE, 3))
    picture[inside] = generator.randint(90, 256, 3)
    return picture.astype(np.uint8)


def make(folder: Path) -> Path:
    """``train/<class>/*.png`` and ``test/<class>/*.png``; the same every time."""
    generator = np.random.RandomState(0)
    for part, counts in (("train", TRAINING), ("test", dict.fromkeys(TRAINING, TEST))):
        for name, count in counts.items():
            (folder / part / name).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                Image.fromarray(shape(name, generator)).save(folder / part / name / f"{number:03}.png")
    return folder


if __name__ == "__main__":
    make(Path(sys.argv[1]))
