"""A report as files: the same records give the same bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from csa.config.faults import Fault, UserError
from csa.reporting import frame, latex, markdown, page

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from csa.reporting.comparisons import Comparisons
    from csa.reporting.page import Drawn
    from csa.reporting.tables import Table

ENDINGS = {"markdown": "md", "latex": "tex", "csv": "csv"}
RENDERERS = {"markdown": markdown, "latex": latex, "csv": frame}


def as_text(form: str, tables: Sequence[Table], comparisons: Sequence[Comparisons]) -> str:
    """All of them in one text: markdown, latex, csv or html."""
    if form == "html":
        return page.page(tables, comparisons, [])
    renderer = RENDERERS[form]
    texts = [renderer.table_text(table) for table in tables]
    return "\n".join([*texts, *(renderer.comparisons_text(one) for one in comparisons)])


def write_report(
    to: Path, tables: Sequence[Table], comparisons: Sequence[Comparisons], figures: Sequence[Drawn]
) -> str:
    """Write every table and comparison in every format, the figures, and the page that shows it all. Says what."""
    files: dict[str, bytes] = {}
    shown = [one for one in comparisons if one.rows]
    for form, ending in ENDINGS.items():
        renderer = RENDERERS[form]
        files |= {f"tables/{one.name}.{ending}": renderer.table_text(one).encode() for one in tables}
        files |= {f"tables/comparisons{one.number}.{ending}": renderer.comparisons_text(one).encode() for one in shown}
    fragments = [name.removeprefix("tables/") for name in files if name.endswith(".tex")]
    files["tables/all.tex"] = latex.document(fragments).encode()
    files |= {f"figures/{drawn.name}.{ending}": content for drawn in figures for ending, content in drawn.files.items()}
    files["index.html"] = page.page(tables, shown, figures).encode()
    try:
        for name, content in sorted(files.items()):
            path = to / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    except OSError as error:
        raise UserError(Fault("to", to, f"cannot be written ({error.strerror})")) from error
    return f"{len(files)} files are in {to}"
