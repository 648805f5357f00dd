"""One image file as the array that a network takes. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.Image import Image


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
    from PIL import Image, ImageOps

    try:
        with Image.open(file) as opened:
            return ImageOps.exif_transpose(opened).convert(mode)
    except Exception as error:  # decoders of damaged files raise anything; whatever it is, the file is named
        raise UnreadableImageError(str(error) or type(error).__name__) from error
