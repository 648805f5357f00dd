"""One configuration, one recorded run: ``python -m csa.run dataset=cifar100_lt method=csa``.

configuration -> split -> method -> training -> evaluation -> record -> objective
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from csa.cli import queue_again_on_sigterm

if TYPE_CHECKING:
    from csa.config.schema import Config
    from csa.tracking.record import Record
    from csa.tracking.run import Run


def run(config: Config) -> float:
    """Train what ``config`` says, or continue it, or report it where it is done already.

    Returns the objective: accuracy in percent of the primary head at the last epoch, on the
    validation images where there are some, else on the test set.
    """
    from csa.summary import objective

    return objective(recorded(config).result)


def train(*words: str, config_dir: str | None = None) -> Run:
    """The run that ``python -m csa.run`` makes of these words, trained now or found finished; with the same record.

    config_dir: as ``--config-dir``, a folder with options of another package.

    Raises:
        UserError: with every fault of the words, before anything is written.
        RuntimeError: training ended early; what was trained is kept, and the same words continue it.
    """
    from csa.request import preflight
    from csa.tracking.run import Run

    config = preflight(words, config_dir=config_dir).config
    try:
        record = recorded(config)
    except SystemExit as end:
        raise RuntimeError(f"training ended early (status {end.code}); the same words continue it") from end
    return Run(record.folder).checked()


def recorded(config: Config) -> Record:
    """The finished record of what ``config`` says. Raises SystemExit where training did not come to its end."""
    from csa.config.faults import UserError
    from csa.config.host import process_world
    from csa.config.identity import fingerprint, identity, run_folder
    from csa.config.rules import validation_faults
    from csa.console import PlainConsole
    from csa.data.dataset import cache_faults, load_split
    from csa.summary import as_plain, keep_shown_settings, print_outset, print_result
    from csa.tracking.finding import point_to_latest
    from csa.tracking.record import Record
    from csa.tracking.tracker import tracker_of

    console = PlainConsole(quiet=process_world().rank > 0)
    split = load_split(config.dataset, Path(config.data_dir), download=config.download)
    for note in split.notes:
        console.print(note)
    if not len(split.holdout_labels) and (faults := validation_faults(config)):
        raise UserError(*faults)
    who = identity(config, split.hash)
    record = Record(run_folder(config, fingerprint(who)))
    if record.state == "done" and not config.rerun:
        console.print("this run is done; rerun=true trains it again")
        if not process_world().rank and keep_shown_settings(config, record):
            console.print("its head or shot groups were others; they are those asked for now")
    else:
        if faults := cache_faults(split):
            raise UserError(*faults)
        print_outset(console, config, split, record.folder)
        from csa.training.session import train_and_record

        train_and_record(config, who, split, record, console)
    if not process_world().rank:
        point_to_latest(Path(config.output_root).expanduser(), record.folder)
        plain = as_plain(config)
        beside = Record(run_folder(plain, fingerprint(identity(plain, split.hash)))).finished() if plain else None
        print_result(console, config, record.result, record.folder, beside)
    if (tracker := tracker_of(config.tracking)) and (where := tracker.browse(record.folder)):
        console.print(f"browse: {where}")
    return record


if __name__ == "__main__":
    queue_again_on_sigterm()
    from csa.entry import hydra_main

    hydra_main(run)
