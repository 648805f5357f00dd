"""Hydra's sweeper of Optuna, but for its end: it asks for the best trial even where every trial has failed."""

from __future__ import annotations

import optuna
from hydra_plugins.hydra_optuna_sweeper.optuna_sweeper import OptunaSweeper
from optuna.trial import TrialState

FAILED_STATUS = 1


class SearchSweeper(OptunaSweeper):
    def sweep(self, arguments: list[str]) -> None:
        """Raises SystemExit(1) where there is no trial to be the best."""
        try:
            super().sweep(arguments)
        except ValueError:
            search = self.sweeper
            assert search.storage is not None
            study = optuna.load_study(study_name=search.study_name, storage=search.storage)
            if study.get_trials(deepcopy=False, states=[TrialState.COMPLETE]):
                raise
            raise SystemExit(FAILED_STATUS) from None
