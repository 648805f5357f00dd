"""The command line of ``python -m csa.run``: pre-flight, then Hydra, then the task with its typed configuration."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import hydra
from hydra._internal.utils import get_args_parser  # Hydra's own options, so that none is misread
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import open_dict

from csa.cli import reporting_faults
from csa.config.composition import left_to_cells, register_sweep_files, spelt_out
from csa.config.faults import Fault, UserError
from csa.config.locations import conf_dir
from csa.config.passwords import hidden
from csa.config.preflight import preflight
from csa.config.processes import started_together
from csa.config.typed import build
from csa.sweep.dots import fill_words
from csa.sweep.orphan import end_with_sweep
from csa.sweep.plugins import prepare_search, register_plugins
from csa.sweep.smoke import WORDS as SMOKE_WORDS

if TYPE_CHECKING:
    from argparse import Namespace

    from omegaconf import DictConfig

    from csa.config.composition import Composed
    from csa.config.schema import Config

PRIMARY = "config"


def hydra_main(task: Callable[[Config], float | None]) -> None:
    """Run ``task`` on what the words of the command line say; under ``-m`` on each cell.

    Mistakes are listed, all of them, before anything is run or written (exit status 2). What only
    shows (``--help``, ``--cfg``, ``--info``, shell completion) is Hydra's. An exception of the
    task that is not a ``UserError`` is a bug and keeps its traceback.
    """
    end_with_sweep()
    with reporting_faults():
        options = get_args_parser().parse_intermixed_args()
        faults: list[Fault] = []

        def job(config: DictConfig) -> float | None:
            with open_dict(config):
                del config["cells"]
            try:
                return task(build(config))
            except UserError as error:
                if HydraConfig.get().mode == RunMode.MULTIRUN:
                    raise  # the sweep tells it among its failures
                faults.extend(error.faults)  # Hydra would print a traceback: kept until it has ended
                return None

        search = None
        if _is_ours_to_judge(options):
            words = _words_meant(options.overrides)
            first = preflight(words, options.config_name or PRIMARY, multirun=options.multirun)
            multirun = _sweeps(options, first)
            words = left_to_cells(hidden(words)) if multirun else spelt_out(words, first.config)
            search = prepare_search(first) if multirun else None
            _rewrite_arguments(options, [*words, *(search.words if search else [])], multirun=multirun)
            if multirun:
                register_plugins()
            if search is not None and search.is_over:
                search.tell()
                return
        elif options.config_dir:
            register_plugins()
        register_sweep_files()
        try:
            hydra.main(config_path=str(conf_dir()), config_name=PRIMARY)(job)()
        finally:
            if search is not None:
                search.tell()
        if faults:
            raise UserError(*faults)


def _sweeps(options: Namespace, first: Composed) -> bool:
    """Whether the command is a sweep, or a plan; of one run's several processes none may start one."""
    sweeps = options.multirun or first.multirun or bool(first.config.plan)
    count = started_together().count
    if sweeps and count > 1:
        problem = f"a sweep starts a process a run by itself, and {count} processes were started to sweep"
        raise UserError(Fault("-m", None, problem, "one process for a sweep; torchrun or srun for a single run"))
    return sweeps


def _words_meant(words: list[str]) -> list[str]:
    """Dots filled in, ``smoke=true`` spelt out."""
    words = fill_words(words)
    return [*words, *(SMOKE_WORDS if "smoke=true" in map(str.lower, words) else ())]


def _rewrite_arguments(options: Namespace, words: list[str], *, multirun: bool) -> None:
    """Hydra reads the command line itself: give it the words as they are meant."""
    kept = [word for word in sys.argv[1:] if word not in options.overrides]
    flag = ["--multirun"] if multirun and not options.multirun else []
    sys.argv[1:] = [*kept, *flag, *words]


def _is_ours_to_judge(options: Namespace) -> bool:
    """Whether something is to be run, from our own tree."""
    only_shows = (options.help, options.hydra_help, options.cfg, options.info, options.shell_completion)
    from_elsewhere = (options.config_path, options.config_dir, options.experimental_rerun)
    return not any(only_shows) and not any(from_elsewhere)
