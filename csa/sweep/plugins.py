"""What Hydra and the command line need to know of sweeps, imported only where there is one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from csa.config.composition import Composed
    from csa.sweep.search import Search


def register_plugins() -> None:
    """Make our sweeper and launcher known to Hydra, before it looks for them."""
    from hydra.core.plugins import Plugins
    from hydra.plugins.launcher import Launcher
    from hydra.plugins.sweeper import Sweeper

    from csa.sweep.launcher import LocalLauncher
    from csa.sweep.sweeper import CellsSweeper

    for kind, plugin in ((Sweeper, CellsSweeper), (Launcher, LocalLauncher)):
        if plugin not in Plugins.instance().discover(kind):
            Plugins.instance().register(plugin)


def prepare_search(first: Composed, words: Sequence[str]) -> Search | None:
    """What is known of the study, where the sweep is one of Optuna's; raises UserError where it may not run."""
    if "optuna" not in str(first.sweeper.get("_target_")):
        return None
    from hydra.core.plugins import Plugins

    from csa.sweep.search import prepare
    from csa.sweep.search_sweeper import SearchSweeper

    Plugins.instance().register(SearchSweeper)
    return prepare(first, words)
