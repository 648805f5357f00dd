"""The command line of ``python -m csa.run``: pre-flight, then Hydra, then the task with its typed configuration."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import hydra
from hydra._internal.utils import get_args_parser  # Hydra's own options, so that none is misread

from csa.cli import EXIT_FAULTS, fault_list, reporting_faults
from csa.config.composition import register_sweep_files
from csa.config.faults import Fault, UserError
from csa.config.locations import conf_dir
from csa.config.preflight import preflight
from csa.config.typed import build

if TYPE_CHECKING:
    from argparse import Namespace

    from omegaconf import DictConfig

    from csa.config.schema import Config

PRIMARY = "config"


def hydra_main(task: Callable[[Config], float | None]) -> None:
    """Run ``task`` on what the words of the command line say; under ``-m`` on each cell.

    Mistakes are listed, all of them, before anything is run or written (exit status 2). What only
    shows (``--help``, ``--cfg``, ``--info``, shell completion) is Hydra's. An exception of the
    task that is not a ``UserError`` is a bug and keeps its traceback.
    """
    with reporting_faults():
        options = get_args_parser().parse_intermixed_args()
        if _is_ours_to_judge(options):
            preflight(options.overrides, options.config_name or PRIMARY, multirun=options.multirun)
        faults: list[Fault] = []

        def job(config: DictConfig) -> float | None:
            # Hydra would print a traceback: kept until it has ended. Other cells of a sweep still run.
            try:
                return task(build(config))
            except UserError as error:
                faults.extend(error.faults)
                return None

        register_sweep_files()
        hydra.main(config_path=str(conf_dir()), config_name=PRIMARY)(job)()
        if faults and options.multirun:
            print(fault_list(faults, "the other cells were run"), file=sys.stderr)
            raise SystemExit(EXIT_FAULTS)
        if faults:
            raise UserError(*faults)


def _is_ours_to_judge(options: Namespace) -> bool:
    """Whether something is to be run, from our own tree."""
    only_shows = (options.help, options.hydra_help, options.cfg, options.info, options.shell_completion)
    from_elsewhere = (options.config_path, options.config_dir, options.experimental_rerun)
    return not any(only_shows) and not any(from_elsewhere)
