"""One image file as what a network takes, or a part of it. Imports no torch."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from PIL.Image import Image

ORIENTATION, TURNED = 0x0112, (5, 6, 7, 8)
"""The EXIF tag, and its values by which height and width change places."""
SPARE = 2


class UnreadableImageError(Exception):
    """The file is no image, or a damaged one."""


def read_image(file: Path, image_shape: tuple[int, int, int]) -> np.ndarray:
    """The image, upright, resized to cover the shape and its centre cropped: uint8 [height, width, channels].

    image_shape: channels (3: RGB, 1: grey), height, width.

    Raises:
        UnreadableImageError: with what the decoder said.
    """
    from PIL import Image, ImageOps

    channels, height, width = image_shape
    upright = decode(file, "RGB" if channels == 3 else "L")
    pixels = np.asarray(ImageOps.fit(upright, (width, height), Image.Resampling.BILINEAR))
    return pixels.reshape(height, width, channels)


def decode(file: Path, mode: Literal["RGB", "L"] = "RGB") -> Image:
    """The whole image, upright, whatever its own mode (grey, CMYK, palette, with transparency).

    Raises:
        UnreadableImageError: with what the decoder said.
    """
    from PIL import ImageOps

    with _opened(file) as image:
        ImageOps.exif_transpose(image, in_place=True)
        return image.convert(mode)


def decode_crop(file: Path, choose: Callable[[int, int], Sequence[float]], pixels: int) -> Image:
    """A part of the upright image, RGB, cut at whole pixels.

    choose: of the image's height and width, the shares of the part's height, width, top and left. pixels: sides that
    the part is resized to later; a JPEG with far more is decoded at a smaller scale, still ``SPARE`` times as large.

    Raises:
        UnreadableImageError: with what the decoder said.
    """
    from PIL import ImageOps

    with _opened(file) as image:
        width, height = image.size[::-1] if image.getexif().get(ORIENTATION) in TURNED else image.size
        part = choose(height, width)
        smaller = max(1, min(part[0] * height, part[1] * width) / (SPARE * pixels))
        image.draft(None, (int(image.width / smaller), int(image.height / smaller)))
        ImageOps.exif_transpose(image, in_place=True)
        return image.crop(_edges(part, *image.size)).convert("RGB")


def _edges(part: Sequence[float], width: int, height: int) -> tuple[int, int, int, int]:
    """Left, top, right and bottom pixel of a part given by shares."""
    high, wide = max(1, round(part[0] * height)), max(1, round(part[1] * width))
    top, left = min(round(part[2] * height), height - high), min(round(part[3] * width), width - wide)
    return left, top, left + wide, top + high


@contextmanager
def _opened(file: Path) -> Iterator[Image]:
    from PIL import Image

    try:
        with Image.open(file) as image:
            yield image
    except Exception as error:  # decoders of damaged files raise anything; whatever it is, the file is named
        raise UnreadableImageError(str(error) or type(error).__name__) from error
