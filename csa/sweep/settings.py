"""What is said of a sweep as a whole: how many runs at once, what after a failure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from csa.config.schema import SweepConfig
from csa.config.typed import build_block

if TYPE_CHECKING:
    from omegaconf import DictConfig


@dataclass(frozen=True)
class Settings:
    """config_name: of the primary configuration, such as a file of sweeps/."""

    config_name: str
    sweep: SweepConfig
    plan: bool


def settings_of(config: DictConfig) -> Settings:
    """From what Hydra composed for all runs; the values that vary stand in it as text, but these do not vary."""
    sweep: Any = OmegaConf.to_container(config.sweep, resolve=True)
    return Settings(config.hydra.job.config_name, build_block(SweepConfig, sweep), config.plan)
