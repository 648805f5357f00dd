"""The size of the house, and the way of a command's words through it: ``python -m benchmarks.house dataset=digits_lt``.

Lines, modules and imports of ``csa/``; then, of the words, what Python calls from the entry until the run begins: the
modules and functions of csa that take part, and how often a call crosses from one module into another.
"""

from __future__ import annotations

import ast
import sys
from collections import Counter
from inspect import CO_OPTIMIZED
from pathlib import Path
from typing import TYPE_CHECKING, Any

import csa
from csa.cli import answer_help
from csa.console import PlainConsole

if TYPE_CHECKING:
    from types import FrameType

ROOT = Path(csa.__file__).parent
SMALL = 50  # lines of a small module


def main(words: list[str]) -> None:
    answer_help(words, __doc__)
    console = PlainConsole()
    for line in (*sizes(), *way(words)):
        console.print(line)


def sizes() -> list[str]:
    """Of csa as a whole, then a line a folder."""
    texts = {path.relative_to(ROOT): path.read_text() for path in sorted(ROOT.rglob("*.py"))}
    lines = {path: len(text.splitlines()) for path, text in texts.items()}
    imports = sum(_import_lines(text) for text in texts.values())
    small = sum(count <= SMALL for count in lines.values())
    total = sum(lines.values())
    found = [f"csa: {len(lines)} modules, {total} lines; {small} modules of {SMALL} lines or fewer"]
    found.append(f"imports: {imports} lines, {100 * imports / total:.1f} %")
    for folder in sorted({path.parent for path in lines}):
        within = [count for path, count in lines.items() if path.parent == folder]
        found.append(f"  {folder!s:<14} {len(within):>3} modules {sum(within):>6} lines")
    return found


def way(words: list[str]) -> list[str]:
    """What of csa is called for these words until the run begins; the command's own output is not changed."""
    from csa.entry import hydra_main

    calls: Counter[tuple[str, str]] = Counter()
    moves = 0

    def look(frame: FrameType, event: str, _argument: Any) -> None:
        nonlocal moves
        if event == "call" and (here := _module(frame)):
            calls[here, _function(frame)] += 1
            moves += frame.f_back is not None and _module(frame.f_back) not in ("", here)

    sys.argv = ["csa.run", *words]
    sys.setprofile(look)
    try:
        hydra_main(lambda _: sys.setprofile(None))
    finally:
        sys.setprofile(None)
    modules, functions = {module for module, _ in calls}, {call for call in calls if call[1]}
    return [f"the words pass {len(modules)} modules, {len(functions)} functions, {moves} moves between modules"]


def _import_lines(text: str) -> int:
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import | ast.ImportFrom)]
    return sum(1 + (node.end_lineno or node.lineno) - node.lineno for node in nodes)


def _function(frame: FrameType) -> str:
    """Its name; nothing of a module, a class body, a comprehension or a lambda."""
    name = frame.f_code.co_qualname
    return "" if name.endswith(">") or not frame.f_code.co_flags & CO_OPTIMIZED else name


def _module(frame: FrameType) -> str:
    path = Path(frame.f_code.co_filename)
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else ""


if __name__ == "__main__":
    main(sys.argv[1:])
