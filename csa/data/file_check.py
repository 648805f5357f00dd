"""Whether every image of a data set of files can be decoded: asked once, before a long run."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING

from csa.config.faults import Fault, UserError
from csa.config.machine import cores
from csa.data.pictures import UnreadableImageError, decode

if TYPE_CHECKING:
    from pathlib import Path

    from csa.data.image_files import ImageFiles

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
