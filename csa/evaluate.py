"""A recorded model on its own test set, on another data set of the same classes, or on a folder of images.

python -m csa.evaluate run=3f2a                                     its own test set: the recorded accuracies again
python -m csa.evaluate run=3f2a dataset=npz dataset.path=mine.npz   the test part of another data set
python -m csa.evaluate run=3f2a images=folder                       every image below a folder, as CSV
python -m csa.evaluate run=3f2a images=folder top=5                 of the five likeliest classes alone
python -m csa.evaluate run=3f2a images=folder to=predictions.csv head=balanced

run      a fingerprint, or how it begins; python -m csa.records lists them
images   a folder; each image is resized to the model's input, its centre cropped
to       where the CSV goes (standard output): file, predicted class, the probability of each class (softmax; of a
         sigmoid loss each class's own, which need not add up to 1), calibrated by a temperature if the run has
         validation images, else as the model gives them
top      so many classes an image, the likeliest first, instead of all
head     one of the model's classifiers (CSV: the one that stands for the run; tables: all)
output_root=folder, data_dir=folder, runtime.device=cpu, --config-dir and the like are as in csa.run.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from csa.cli import answer_help, file_faults, reporting_faults, say, writing_to
from csa.config.faults import Fault, UserError, listed, printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from csa.config.schema import Config, DatasetConfig
    from csa.data.split import Images
    from csa.metrics import Scores
    from csa.tracking.run import Run

WORDS: dict[str, tuple[str, ...]] = {"run": (), "images": (), "to": (), "top": (), "head": ()}
TAKES = ("output_root", "dataset", "data_dir", "download", "runtime")


def main(words: list[str]) -> None:
    answer_help(words, __doc__)
    from csa.request import configure
    from csa.tracking.finding import find_finished

    with reporting_faults():
        config, own = configure(words, extra=WORDS, takes=TAKES)
        run = find_finished(Path(config.output_root).expanduser(), own["run"])
        elsewhere = any(word.startswith(("dataset=", "dataset.")) for word in words)
        _check(own, run, elsewhere)
        if own["images"]:
            predict_folder(run, config, own)
        elif elsewhere:
            evaluate_elsewhere(run, config, own["head"])
        else:
            evaluate_own(run, config, own["head"])


def _check(own: dict[str, str], run: Run, elsewhere: bool) -> None:
    faults = run.head_faults(own["head"]) + file_faults(own["to"])
    if own["images"] and elsewhere:
        faults.append(Fault("images", own["images"], "stands beside dataset=", "one of the two"))
    if own["to"] and not own["images"]:
        faults.append(Fault("to", own["to"], "only predictions on images=<folder> are written to a file"))
    if own["top"] and not own["images"]:
        faults.append(Fault("top", own["top"], "only predictions on images=<folder> are listed"))
    classes = len(run.result["split"]["classes"])
    if own["top"] and not (own["top"].isdecimal() and 1 <= int(own["top"]) <= classes):
        faults.append(Fault("top", own["top"], "is out of range", f"an integer from 1 to {classes}"))
    if faults:
        raise UserError(*faults)


# --- labelled images: tables ----------------------------------------------------------------


def evaluate_own(run: Run, config: Config, head: str) -> None:
    """The test set of the run itself, and whether the recorded accuracies came out again."""
    from csa.console import PlainConsole
    from csa.summary import print_accuracies
    from csa.training.recorded import recorded_split

    result, split = run.result, recorded_split(run, config.data_dir, config.download)
    _tell(*split.notes)
    scores = _scores(run, split.test_images, split.test_labels, config, head)
    heads = {name: {**result["heads"][name], "last": values.as_dict()} for name, values in scores.items()}
    console = PlainConsole()
    title = f"{_name(result)}: accuracy in % on its {len(split.test_labels):,} test images"
    print_accuracies(console, {**result, "heads": heads}, title)
    for name, values in scores.items():
        recorded = result["heads"][name]["last"]["all"]
        compared = "as recorded" if values.all == recorded else f"recorded: {recorded:.4f}, now {values.all:.4f}"
        console.print(f"{name}: {compared}")


def evaluate_elsewhere(run: Run, config: Config, head: str) -> None:
    """The test part of the data set that the command names."""
    from csa.console import PlainConsole
    from csa.data.dataset import load
    from csa.summary import print_accuracies

    dataset, result = config.dataset, run.result
    arrays = load(dataset, config.data_dir, config.download)
    _check_suits(dataset, arrays.test_images, arrays.classes, result)
    _tell(*arrays.notes)
    labels, note = in_recorded_order(arrays.test_labels, arrays.classes, result["split"]["classes"])
    scores = _scores(run, arrays.test_images, labels, config, head)
    console = PlainConsole()
    title = f"{_name(result)}: accuracy in % on {len(labels):,} images of {dataset.name}"
    heads = {name: {"last": values.as_dict()} for name, values in scores.items()}
    print_accuracies(console, {**result, "heads": heads}, title)
    if note:
        console.print(note)


def in_recorded_order(labels: np.ndarray, classes: Sequence[str], recorded: Sequence[str]) -> tuple[np.ndarray, str]:
    """Labels [N] as the model counts classes: by name where both have the same names, else by position.

    Returns a note too, where positions had to be trusted: also of several classes of one name, in their order.
    """
    import numpy as np

    from csa.data.split import distinct_names, same_form

    theirs, ours = ([same_form(name) for name in names] for names in (classes, recorded))
    if theirs == ours:
        return labels, ""
    if sorted(theirs) == sorted(ours):
        index_of = {name: k for k, name in enumerate(distinct_names(ours))}
        twice = sorted({name for name in ours if ours.count(name) > 1})
        note = f"several classes are called {twice[0]!r}; such classes go by their order" if twice else ""
        return np.array([index_of[name] for name in distinct_names(theirs)])[labels], note
    theirs_k, ours_k = next(pair for pair in zip(theirs, ours, strict=True) if pair[0] != pair[1])
    return labels, f"the class names differ, so classes go by position: {theirs_k!r} counts as {ours_k!r}"


def _check_suits(dataset: DatasetConfig, images: Images, classes: Sequence[str], result: dict[str, Any]) -> None:
    """Whether the model can take these images and knows as many classes."""
    channels, height, width = result["split"]["image_shape"]
    faults = []
    if len(classes) != len(result["split"]["classes"]):
        allowed = f"the model's {len(result['split']['classes'])}"
        faults.append(Fault("dataset", dataset.name, f"has {len(classes)} classes", allowed))
    if images.shape[3] != channels:
        faults.append(Fault("dataset", dataset.name, f"has {images.shape[3]} channel(s)", f"the model's {channels}"))
    if images.shape[1:3] != (height, width):
        problem = f"has images of {images.shape[1]}x{images.shape[2]} pixels"
        faults.append(Fault("dataset", dataset.name, problem, f"the model's {height}x{width}"))
    if faults:
        raise UserError(*faults)


def _scores(run: Run, images: Images, labels: np.ndarray, config: Config, head: str) -> dict[str, Scores]:
    """Of one head, or of all where ``head`` is empty; images that were passed over are told."""
    from csa.training.recorded import scores_on

    found, damaged = scores_on(run.folder, images, labels, config.runtime)
    if damaged:
        _tell(f"skipped images that cannot be read: {len(damaged)} of {len(labels)} ({listed(list(damaged))})")
    return {head: found[head]} if head else found


def _name(result: dict[str, Any]) -> str:
    run = result["run"]
    return f"{run['method']} trained on {run['dataset']}, seed {run['seed']}"


# --- images without labels: CSV -------------------------------------------------------------


def predict_folder(run: Run, config: Config, own: dict[str, str]) -> None:
    """Every image below the folder; of one that cannot be read nothing is written."""
    folder, split = Path(own["images"]).expanduser(), run.result["split"]
    files, images = read_folder(folder, tuple(split["image_shape"]))
    from csa.training.recorded import probabilities

    head = run.head(own["head"])
    chosen = probabilities(run.folder, images, config.runtime, calibrated=True)[head]
    divisor = run.temperature(head)
    how = "as the model gives them: the run has no temperature" if divisor is None else f"at temperature {divisor:.3g}"
    _tell(f"probabilities of head {head}, {how}{' of its validation images' * (divisor is not None)}")
    names = [printable(file.as_posix()) for file in files]
    top = int(own["top"] or 0)
    if not own["to"]:
        write_csv(sys.stdout, names, chosen, split["classes"], top)
        return
    with writing_to(own["to"]), Path(own["to"]).expanduser().open("w", newline="") as stream:
        write_csv(stream, names, chosen, split["classes"], top)
    say(f"{len(names)} predictions are in {own['to']}")


def read_folder(folder: Path, image_shape: tuple[int, int, int]) -> tuple[list[Path], np.ndarray]:
    """Files by name, relative to the folder, and their images, uint8 [N, H, W, C].

    What is no image by its name is left out and told. Raises UserError with every file that cannot be read.
    """
    from csa.data.image_files import walk
    from csa.data.pictures import read_images

    if not folder.is_dir():
        raise UserError(Fault("images", str(folder), "there is no such folder", "a folder of images"))
    found = walk(folder)
    faults = [Fault("images", str(folder), problem) for problem in found.problems()]
    notes = [printable(note) for note in found.notes(str(folder))]
    if not (found.images or faults):
        also = "".join(f"; {note}" for note in notes)
        raise UserError(Fault("images", str(folder), f"has no image in it{also}", "a folder of images"))
    images, unread = read_images("images", [folder / file for file in found.images], image_shape)
    if faults + unread:
        raise UserError(*faults, *unread)
    _tell(*notes)
    return found.images, images


def _tell(*notes: str) -> None:
    """Beside the answer, which may go to a file."""
    for note in notes:
        say(note, aside=True)


def write_csv(
    stream: TextIO, files: Sequence[str], probabilities: np.ndarray, classes: Sequence[str], top: int = 0
) -> None:
    """A line an image; probabilities: [N, K]. top: so many classes, the likeliest first; 0: all, in their order."""
    from csa.data.split import distinct_names

    writer = csv.writer(stream, lineterminator="\n")
    file_column, predicted, *names = distinct_names(["file", "predicted", *classes])
    columns = [predicted, *names]
    if top:
        columns = [f"{what} {rank}" for rank in range(1, top + 1) for what in ("predicted", "probability")]
    writer.writerow([file_column, *columns])
    order = (-probabilities).argsort(1, kind="stable")
    for file, likeliest, row in zip(files, order, probabilities, strict=True):
        cells = [names[likeliest[0]], *(f"{value:.6g}" for value in row)]
        if top:
            cells = [cell for k in likeliest[:top] for cell in (names[k], f"{row[k]:.6g}")]
        writer.writerow([file, *cells])


if __name__ == "__main__":
    main(sys.argv[1:])
