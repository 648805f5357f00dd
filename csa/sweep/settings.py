"""What is said of a sweep as a whole: how many runs at once, what after a failure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from csa.config.blocks import build_block
from csa.config.schema import SweepConfig

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from csa.sweep.plan import Plan, Run


@dataclass(frozen=True)
class Settings:
    """config_name: of the primary configuration, such as a file of sweeps/; config_dir: of ``--config-dir``."""

    config_name: str
    config_dir: str | None
    sweep: SweepConfig
    plan: bool

    @property
    def tree(self) -> list[str]:
        """Words that choose the same configuration tree for a run of its own."""
        named = [] if self.config_name == "config" else ["--config-name", self.config_name]
        return named + (["--config-dir", self.config_dir] if self.config_dir else [])

    def to_do(self, plan: Plan) -> list[Run]:
        """What this start is to run; what starts from another run's finished stage comes after it."""
        runs = [run for run in plan.runs if self.is_to_do(run)]
        return sorted(runs, key=lambda run: run.config.method.starts_from is not None)

    def is_to_do(self, run: Run) -> bool:
        state = run.state
        if state == "failed":
            return self.sweep.retry_failed
        return state != "done" or run.config.rerun


def settings_of(config: DictConfig) -> Settings:
    """From what Hydra composed for all runs; the values that vary stand in it as text, but these do not vary."""
    sweep: Any = OmegaConf.to_container(config.sweep, resolve=True)
    added = [source.path for source in config.hydra.runtime.config_sources if source.provider == "command-line"]
    return Settings(
        config.hydra.job.config_name, added[0] if added else None, build_block(SweepConfig, sweep), config.plan
    )
