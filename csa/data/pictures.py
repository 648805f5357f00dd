"""One image file as what a network takes, or a part of it. Imports no torch.

Of several frames or pages the first is read, and transparency is passed over, as torchvision's loaders do.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Literal

import numpy as np

from csa.config.faults import Fault, UserError
from csa.config.host import cores

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from PIL.Image import Image

    from csa.data.image_files import ImageFiles


ORIENTATION, BITS, PHOTOMETRIC = 0x0112, 258, 262
"""EXIF's and TIFF's tags."""
WHITE_IS_ZERO = 0
TURNED = (5, 6, 7, 8)
"""Orientations by which height and width change places."""
SPARE = 2


class UnreadableImageError(Exception):
    """The file is no image, a damaged one, or one whose values have no known scale."""


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


def read_images(key: str, files: Sequence[Path], image_shape: tuple[int, int, int]) -> tuple[np.ndarray, list[Fault]]:
    """As ``read_image``, uint8 [N, height, width, channels], and a fault of ``key`` for each file that is no image."""
    channels, height, width = image_shape
    images, faults = np.zeros((len(files), height, width, channels), dtype=np.uint8), []
    for pixels, file in zip(images, files, strict=True):
        try:
            pixels[:] = read_image(file, image_shape)
        except UnreadableImageError as error:
            faults.append(Fault(key, file, f"cannot be read as an image ({error})"))
    return images, faults


def decode(file: Path, mode: Literal["RGB", "L"] = "RGB") -> Image:
    """The whole image, upright, whatever its own mode (grey, CMYK, palette, 16 bits, floats in [0, 1]).

    Raises:
        UnreadableImageError: with what the decoder said.
    """
    with _opened(file) as image:
        orientation = _orientation(image)
        return _upright(_of_eight_bits(image), orientation).convert(mode)


def decode_crop(file: Path, choose: Callable[[int, int], Sequence[float]], pixels: int) -> Image:
    """A part of the upright image, RGB, cut at whole pixels.

    choose: of the image's height and width, the shares of the part's height, width, top and left. pixels: sides that
    the part is resized to later; a JPEG with far more is decoded at a smaller scale, still ``SPARE`` times as large.

    Raises:
        UnreadableImageError: with what the decoder said.
    """
    with _opened(file) as image:
        orientation = _orientation(image)
        width, height = image.size[::-1] if orientation in TURNED else image.size
        part = choose(height, width)
        smaller = max(1, min(part[0] * height, part[1] * width) / (SPARE * pixels))
        image.draft(None, (int(image.width / smaller), int(image.height / smaller)))
        upright = _upright(_of_eight_bits(image), orientation)
        return upright.crop(_edges(part, *upright.size)).convert("RGB")


def _edges(part: Sequence[float], width: int, height: int) -> tuple[int, int, int, int]:
    """Left, top, right and bottom pixel of a part given by shares."""
    high, wide = max(1, round(part[0] * height)), max(1, round(part[1] * width))
    top, left = min(round(part[2] * height), height - high), min(round(part[3] * width), width - wide)
    return left, top, left + wide, top + high


def _orientation(image: Image) -> int:
    """How an image that is not loaded yet has to be turned; 1 where its EXIF is damaged, or says what does not exist.

    Pillow turns TIFF itself while it is loaded, and gives its size as it will be then.
    """
    found = None
    if image.format != "TIFF":
        with suppress(Exception):  # whatever a damaged block raises: the pixels do not depend on it
            found = image.getexif().get(ORIENTATION)
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _upright(image: Image, orientation: int) -> Image:
    from PIL.Image import Transpose

    turns = (
        *(None, Transpose.FLIP_LEFT_RIGHT, Transpose.ROTATE_180, Transpose.FLIP_TOP_BOTTOM),
        *(Transpose.TRANSPOSE, Transpose.ROTATE_270, Transpose.TRANSVERSE, Transpose.ROTATE_90),
    )
    turn = turns[orientation - 1]
    return image if turn is None else image.transpose(turn)


def _of_eight_bits(image: Image) -> Image:
    """The image itself, loaded, or a grey one whose levels had more than 8 bits.

    Of 16 bits the high byte is taken, as Pillow does with colours. Floats in [0, 1] become 255 steps.
    """
    from PIL import Image as Images

    image.load()
    if not image.mode.startswith(("I", "F")):
        return image
    levels = np.asarray(image)
    if image.mode == "F":
        return Images.fromarray(unit_to_bytes(levels))
    if image.mode == "I" and image.format != "PPM":
        raise ValueError("it has integers of 32 bits or with a sign, whose scale is not known; allowed: 8 or 16 bits")
    bits = _bits(image)
    bytes_ = (levels >> (bits - 8)).astype(np.uint8)
    return Images.fromarray(255 - bytes_ if _tag(image, PHOTOMETRIC) == WHITE_IS_ZERO else bytes_)


def unit_to_bytes(levels: np.ndarray) -> np.ndarray:
    """Floats in [0, 1] as uint8, rounded, of the same shape. Raises ValueError for others, whose scale is not known."""
    least, greatest = float(levels.min()), float(levels.max())
    if not (least >= 0 and greatest <= 1):  # neither is true of nan
        raise ValueError(f"it has floats from {least:g} to {greatest:g}; allowed: from 0 to 1")
    rounded: np.ndarray = np.rint(levels * 255).astype(np.uint8)
    return rounded


def _bits(image: Image) -> int:
    """Of a level: Pillow has those of a TIFF as they are, and fills 16 bits in all other formats."""
    found = _tag(image, BITS)
    return found[0] if isinstance(found, tuple) else 16


def _tag(image: Image, tag: int) -> object:
    """A TIFF's; None in other formats."""
    return image.tag_v2.get(tag) if hasattr(image, "tag_v2") else None


@contextmanager
def _opened(file: Path) -> Iterator[Image]:
    from PIL import Image

    try:
        with warnings.catch_warnings():  # of damage that does not touch the pixels
            warnings.simplefilter("ignore")
            with Image.open(file) as image:
                if not image.width * image.height:
                    raise ValueError("it has no pixel")  # noqa: TRY301
                yield image
    except Exception as error:  # decoders of damaged files raise anything; whatever it is, the file is named
        raise UnreadableImageError(str(error) or type(error).__name__) from error


AT_ONCE = 64


def decoding_faults(images: ImageFiles) -> Iterator[str]:
    """Of each file why it is no readable image, or nothing; by as many processes as there are cores.

    Raises:
        UserError: such a process was ended, as by a system that runs out of memory.
    """
    paths = [images.path(position) for position in range(len(images))]
    try:
        with ProcessPoolExecutor(cores()) as pool:
            yield from pool.map(_reason, paths, chunksize=AT_ONCE)
    except BrokenProcessPool as error:
        raise UserError(Fault("dataset", images.root, "a process that decoded its images was ended")) from error


def _reason(path: Path) -> str:
    try:
        decode(path)
    except UnreadableImageError as error:
        return str(error)
    return ""
