"""Where images come from. A data set names its source by dotted path; another package may bring its own."""

from __future__ import annotations

from importlib import import_module
from typing import Any

WHERE = {
    "ColouredSource": "coloured",
    "DigitsSource": "tiny",
    "ImageFolderSource": "image_folder",
    "ListFilesSource": "list_files",
    "NpzSource": "npz",
    "Preview": "source",
    "Source": "source",
    "TinyImageNetSource": "image_folder",
    "TorchvisionSource": "torchvision_archive",
}


def __getattr__(name: str) -> Any:
    """Imported when first asked for: a command needs the source of its own data set alone."""
    if name not in WHERE:
        raise AttributeError(f"module 'csa.data.sources' has no attribute {name!r}")
    return getattr(import_module(f"csa.data.sources.{WHERE[name]}"), name)
