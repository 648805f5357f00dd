"""A recorded model as one file that needs nothing of csa, and a model card beside it.

python -m csa.export run=3f2a to=model.pt2                  a program of torch.export
python -m csa.export run=3f2a to=model.onnx                 ONNX; pip install "csa[onnx]"
python -m csa.export run=3f2a to=model.pt2 head=balanced    another head than the one that stands for the run

run      a fingerprint, or how it begins; python -m csa.records lists them
to       the file; the card lies beside it, as model.pt2.md
format   pt2, onnx (as to ends)
head     one of the model's classifiers
output_root=folder, data_dir=folder, download=false and --config-dir are as in csa.run.

The file takes float images [B, C, H, W] in [0, 1], any B, of the size that the run was trained on, and gives "logits"
and "probabilities" [B, K], these at the temperature of the run's validation images, if it has such. Class names and
what else to know of it are inside, as contract.json. It is written when it classifies the test images as the run did.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

from csa.cli import answer_help, file_faults, reporting_faults, say, writing_to
from csa.config.faults import Fault, UserError

if TYPE_CHECKING:
    import numpy as np

    from csa.config.schema import Config
    from csa.tracking.run import Run
    from csa.training.recorded import Form

FORMATS = ("pt2", "onnx")
WORDS: dict[str, tuple[str, ...]] = {"run": (), "to": (), "format": ("", *FORMATS), "head": ()}
TAKES = ("output_root", "data_dir", "download")

SAME_ARITHMETIC, OTHER_ARITHMETIC = 0.999, 0.98
"""Shares of the recorded predictions that the file must give again: of fp32 on the processor, which is what the file
computes; and of bf16 or a GPU, whose rounding moves images that lie between two classes."""


def main(words: list[str]) -> None:
    answer_help(words, __doc__)
    from csa.request import configure
    from csa.tracking.finding import find_finished

    with reporting_faults():
        config, own = configure(words, extra=WORDS, takes=TAKES)
        run = find_finished(Path(config.output_root).expanduser(), own["run"])
        form = _checked_form(own, run)
        export(run, config, run.head(own["head"]), own["to"], form)


def _checked_form(own: dict[str, str], run: Run) -> Form:
    ending = Path(own["to"]).suffix.removeprefix(".")
    faults = run.head_faults(own["head"]) + file_faults(own["to"])
    if not own["to"]:
        faults.append(Fault("to", None, "must be given", "a file, as model.pt2 or model.onnx"))
    elif ending not in FORMATS or own["format"] not in ("", ending):
        wanted = [f".{own['format']}"] if own["format"] else [f".{form}" for form in FORMATS]
        faults.append(Fault("to", own["to"], "has another ending than its format", " or ".join(wanted)))
    if faults:
        raise UserError(*faults)
    return cast("Form", ending)


def export(run: Run, config: Config, head: str, to: str, form: Form) -> None:
    """Write the file and its card.

    Raises:
        UserError: the model or the data cannot be read, the network has no such form, or its answers differ from
            the recorded ones.
    """
    from csa.reporting.model_card import contract, model_card
    from csa.tracking.files import write_bytes, write_text
    from csa.training.recorded import answers, opened, packed, recorded_split

    run.checked()
    network = run.model(head)
    split = recorded_split(run, config.data_dir, config.download)
    terms = contract(run, head)
    content = packed(network, terms["temperature"] or 1.0, terms, form)
    given = answers(opened(content, form), split.test_images, split.test_labels, run.dataset)
    same = _again(run, head, given)
    path = Path(to).expanduser()
    with writing_to(to):
        write_bytes(path, content)
        write_text(path.with_name(f"{path.name}.md"), model_card(run, terms, path.name, same))
    say(f"{to}: head {head}; {same} of {len(given):,} test images are classified as recorded")
    say(f"{to}.md: its model card")


def _again(run: Run, head: str, given: np.ndarray) -> int:
    """How many test images [N] are classified as recorded. Raises UserError where too few are."""
    recorded = run.predictions(head)
    if len(given) != len(recorded):
        problem = f"its record has {len(recorded):,} test images, of which {len(given):,} can be read now"
        raise UserError(Fault("run", run.fingerprint, problem, "the data of the run"))
    same = int((given == recorded).sum())
    exact = (run.result["device"], run.result["precision"]) == ("cpu", "fp32")
    fraction = SAME_ARITHMETIC if exact else OTHER_ARITHMETIC
    if same < fraction * len(given):
        problem = f"the exported model classifies {same:,} of {len(given):,} test images as recorded"
        raise UserError(Fault("run", run.fingerprint, problem, f"at least {100 * fraction:g} %"))
    return same


if __name__ == "__main__":
    main(sys.argv[1:])
