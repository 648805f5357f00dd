"""The command line of ``python -m csa.run``: pre-flight, then Hydra, then the task with its typed configuration."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import hydra
from hydra._internal.utils import get_args_parser  # Hydra's own options, so that none is misread
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from omegaconf import open_dict

from csa.cli import end_with_sweep, reporting_faults, say
from csa.config.composer import build
from csa.config.composition import CompositionError, left_to_cells, register_sweep_files
from csa.config.faults import Fault, UserError, hidden
from csa.config.host import process_world
from csa.config.locations import conf_dir
from csa.request import preflight

if TYPE_CHECKING:
    from argparse import Namespace

    from omegaconf import DictConfig

    from csa.config.schema import Config
    from csa.request import Request
    from csa.sweep.search import Search

PRIMARY = "config"


def hydra_main(task: Callable[[Config], float | None]) -> None:
    """Run ``task`` on what the words of the command line say; under ``-m`` on each cell.

    Mistakes are listed, all of them, before anything is run or written (exit status 2). A single run starts from
    what the pre-flight composed. A sweep is Hydra's, and what only shows (``--help``, ``--cfg``, ``--info``, shell
    completion), of the words as they are meant. An exception of the task that is no mistake of the user is a bug
    and keeps its traceback.
    """
    of_sweep = end_with_sweep()
    with reporting_faults():
        options = get_args_parser().parse_intermixed_args()
        if options.hydra_help or options.shell_completion:
            _through_hydra(task)
            return
        _refuse_other_trees(options)
        shows = options.help or options.cfg is not None or options.info is not None
        request = preflight(
            options.overrides, options.config_name or PRIMARY,
            config_dir=options.config_dir, multirun=options.multirun, to_run=not shows,
        )  # fmt: skip
        if shows:
            _rewrite_arguments(options, request.composed.words)
            _through_hydra(task)
        elif request.sweeps or request.config.plan:
            _sweep(task, options, request)
        else:
            task(request.config)
            if sys.stdout.isatty() and not (of_sweep or process_world().rank):  # in a log nobody types
                from csa.summary import next_commands

                tree = ["--config-dir", options.config_dir] if options.config_dir else []
                named = ["-cn", options.config_name] if options.config_name else []
                say(next_commands(request.config, [*named, *options.overrides], tree))


def _sweep(task: Callable[[Config], float | None], options: Namespace, request: Request) -> None:
    _refuse_several_processes()
    search = _prepared_search(request)
    more = search.words if search else ()
    _rewrite_arguments(options, ["--multirun", *left_to_cells(hidden(request.words)), *more])
    try:
        if search is None or not search.is_over:
            _register_plugins()
            _through_hydra(task)
    finally:
        if search is not None:
            search.show()


def _register_plugins() -> None:
    """Make our sweeper and launcher known to Hydra, before it looks for them."""
    from csa.sweep.sweeper import CellsSweeper, LocalLauncher

    for kind, plugin in ((Sweeper, CellsSweeper), (Launcher, LocalLauncher)):
        if plugin not in Plugins.instance().discover(kind):
            Plugins.instance().register(plugin)


def _prepared_search(request: Request) -> Search | None:
    """What is known of the study, where the sweep is one of Optuna's; raises UserError where it may not run."""
    if "optuna" not in str(request.composed.sweeper.get("_target_")):
        return None
    from csa.sweep.search import SearchSweeper, prepare

    Plugins.instance().register(SearchSweeper)
    return prepare(request)


def _through_hydra(task: Callable[[Config], float | None]) -> None:
    """Hydra reads the command line, and a launcher of its own calls the task in this process or another.

    Raises:
        UserError: Hydra refuses a setting of its own part.
    """
    register_sweep_files()

    def job(config: DictConfig) -> float | None:
        with open_dict(config):
            config.pop("cells", None)
            config.pop("search", None)
        return task(build(config))  # the sweep tells what is wrong among its failures

    os.environ["HYDRA_FULL_ERROR"] = "1"  # it raises then, where it would print
    try:
        hydra.main(config_path=str(conf_dir()), config_name=PRIMARY)(job)()
    except Exception as error:
        if not _is_of_hydra(error):
            raise
        raise UserError(Fault("hydra", None, f"cannot be set up ({CompositionError(error)})")) from error


def _is_of_hydra(error: Exception) -> bool:
    """Whether it is raised by Hydra's code or by what that calls, not by ours."""
    modules = (frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__))
    callers = [name.partition(".")[0] for name in modules]
    last: str = [name for name in callers if name in ("csa", "hydra", "hydra_plugins")][-1]
    return last != "csa"


def _refuse_other_trees(options: Namespace) -> None:
    problem = "is Hydra's, and csa has a configuration tree of its own"
    others = {"--config-path": options.config_path, "--experimental-rerun": options.experimental_rerun}
    faults = [Fault(key, value, problem, "--config-dir adds to it") for key, value in others.items() if value]
    if faults:
        raise UserError(*faults)


def _refuse_several_processes() -> None:
    """Of one run's several processes none may start a sweep."""
    count = process_world().size
    if count > 1:
        problem = f"a sweep starts a process a run by itself, and {count} processes were started to sweep"
        raise UserError(Fault("-m", None, problem, "one process for a sweep; torchrun or srun for a single run"))


def _rewrite_arguments(options: Namespace, words: Sequence[str]) -> None:
    """Hydra reads the command line itself: give it the words as they are meant."""
    kept = [word for word in sys.argv[1:] if word not in (*options.overrides, "-m", "--multirun")]
    sys.argv[1:] = [*kept, *words]
