"""Where images come from. A data set names its source by dotted path; another package may bring its own."""

from csa.data.sources.coloured import ColouredSource
from csa.data.sources.digits import DigitsSource
from csa.data.sources.image_folder import ImageFolderSource
from csa.data.sources.list_files import ListFilesSource
from csa.data.sources.npz import NpzSource
from csa.data.sources.source import Preview, Source
from csa.data.sources.tiny_imagenet import TinyImageNetSource
from csa.data.sources.torchvision_archive import TorchvisionSource

__all__ = [
    "ColouredSource",
    "DigitsSource",
    "ImageFolderSource",
    "ListFilesSource",
    "NpzSource",
    "Preview",
    "Source",
    "TinyImageNetSource",
    "TorchvisionSource",
]
