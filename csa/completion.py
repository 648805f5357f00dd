"""Completion by tab of the command csa: its commands, groups, options, keys and values.

eval "$(csa completion bash)"              now; in ~/.bashrc for every shell
eval "$(csa completion zsh)"               after compinit
csa completion fish | source
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from csa.__main__ import ENTRIES
from csa.cli import answer_help, reporting_faults
from csa.config.composition import CompositionError, Tree
from csa.config.faults import Fault, UserError, nearest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from hydra.core.override_parser.types import Override

    from csa.config.composition import Composed, Tree

# Each hands over the line up to the cursor. Bash takes what stands behind the last "=" of a word for a word.
SCRIPTS = {
    "bash": """_csa() {
  local line="${COMP_LINE:0:COMP_POINT}" found
  local word="${line##* }"
  mapfile -t found < <(csa completion of "$line" 2>/dev/null)
  [[ $word == *=* && $COMP_WORDBREAKS == *=* ]] && found=("${found[@]#"${word%%=*}="}")
  COMPREPLY=("${found[@]}")
  [[ ${#found[@]} == 1 && ${found[0]} == *[=.] ]] && compopt -o nospace
}
complete -F _csa csa""",
    "zsh": """_csa() {
  local -a found
  found=("${(@f)$(csa completion of "$LBUFFER" 2>/dev/null)}")
  compadd -S '' -- $found
}
compdef _csa csa""",
    "fish": "complete -c csa -f -a '(csa completion of (commandline -cp) 2>/dev/null)'",
}


def main(words: Sequence[str]) -> None:
    answer_help(words, __doc__)
    with reporting_faults():
        asked, *line = words or [""]
        if asked == "of":
            print(*candidates(*line), sep="\n")
        elif asked in SCRIPTS:
            print(SCRIPTS[asked])
        else:
            raise UserError(
                Fault("completion", asked, "is not a shell known here", ", ".join(SCRIPTS), nearest(asked, SCRIPTS))
            )


def candidates(line: str) -> list[str]:
    """What the last word of a line, which begins with ``csa``, may become; whole words, in order."""
    _, *words = line.split(" ")
    *before, begun = [word for word in words[:-1] if word] + words[-1:] if words else [""]
    found = _words(before[0], before[1:], begun) if before else ENTRIES
    return sorted(word for word in found if word.startswith(begun))


def _words(command: str, before: Sequence[str], begun: str) -> Iterator[str]:
    own = _own_words(command)
    key, equals, _ = begun.partition("=")
    if equals and key in own:
        yield from (f"{key}={value}" for value in own[key])
        return
    tree = Tree("config")
    if equals:
        yield from (f"{key}={value}" for value in _values(tree, _composed(tree, before), key))
    else:
        yield from (f"{name}=" for name in own)
        yield from _keys(tree, _composed(tree, before), begun)


def _own_words(command: str) -> dict[str, tuple[str, ...]]:
    """The words that only this command has, with their values."""
    if command not in ENTRIES:
        return {}
    words: dict[str, tuple[str, ...]] = getattr(import_module(ENTRIES[command]), "WORDS", {})
    return words


def _composed(tree: Tree, words: Sequence[str]) -> Composed:
    """As far as the words before compose; a word of an entry's own, or a mistake, leaves the defaults."""
    known: list[Override] = []
    for word in words:
        try:
            tree.compose([*known, parsed := tree.parse(word)])
        except CompositionError:
            continue
        known.append(parsed)
    return tree.compose(known)


def _values(tree: Tree, composed: Composed, key: str) -> list[str]:
    """Options of a group, both values of a switch, else the value that stands there."""
    if options := tree.options(key):
        return options
    value = OmegaConf.select(composed.config, key, throw_on_resolution_failure=False)
    if isinstance(value, bool):
        return ["false", "true"]
    return [] if value is None or isinstance(value, DictConfig | ListConfig) else [str(value)]


def _keys(tree: Tree, composed: Composed, begun: str) -> Iterator[str]:
    """``method=`` and ``method.``, then ``method.delta=``: one level at a time."""
    at = begun.rpartition(".")[0]
    block: Any = OmegaConf.select(composed.config, at) if at else composed.config
    for name in map(str, block if isinstance(block, DictConfig) else ()):
        key = f"{at}.{name}" if at else name
        value = None if OmegaConf.is_missing(block, name) else block._get_node(name)
        if isinstance(value, DictConfig):
            yield f"{key}."
        if not isinstance(value, DictConfig) or tree.options(key):
            yield f"{key}="


if __name__ == "__main__":
    main(sys.argv[1:])
