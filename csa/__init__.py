"""csa: long-tailed image recognition, from one line to the paper's tables. In Python:

import csa

run = csa.train("dataset=digits_lt", "method=csa", "seed=0")    # as python -m csa.run, the same record
run.predict(images), run.confusion(), run.model()
frame = csa.runs()                                              # every recorded run, a pandas DataFrame
csa.table(frame), csa.compare(frame, "csa", "ce")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from csa.reporting.frame import runs
    from csa.reporting.tables import compare, table
    from csa.run import train
    from csa.tracking.finding import load
    from csa.tracking.run import Run

__version__ = "0.2.0"
__all__ = ["Run", "compare", "load", "runs", "table", "train"]
WHERE = {
    "Run": "csa.tracking.run",
    "compare": "csa.reporting.tables",
    "load": "csa.tracking.finding",
    "runs": "csa.reporting.frame",
    "table": "csa.reporting.tables",
    "train": "csa.run",
}


def __getattr__(name: str) -> Any:
    """Imported when first asked for: the command line needs none of it."""
    if name not in WHERE:
        raise AttributeError(f"module 'csa' has no attribute {name!r}")
    try:
        return getattr(import_module(WHERE[name]), name)
    except ModuleNotFoundError as error:
        from csa.config.faults import UserError, missing_extra

        if (fault := missing_extra(error)) is None:
            raise
        raise UserError(fault) from error


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
