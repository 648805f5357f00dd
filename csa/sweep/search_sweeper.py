"""Hydra's sweeper of Optuna, but for its end: it asks for the best trial even where every trial has failed."""

from __future__ import annotations

import optuna
from hydra_plugins.hydra_optuna_sweeper.optuna_sweeper import OptunaSweeper
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from csa.cli import FAILED_STATUS, reporting_faults, say
from csa.sweep.search import storage_trouble


class SearchSweeper(OptunaSweeper):
    def sweep(self, arguments: list[str]) -> None:
        """Raises SystemExit(1) where there is no trial to be the best, or where the study cannot be written."""
        try:
            with reporting_faults():
                super().sweep(arguments)
        except (SQLAlchemyError, StorageInternalError) as error:
            say(f"csa: the study cannot be written: {storage_trouble(error)}", aside=True)
            raise SystemExit(FAILED_STATUS) from None
        except ValueError:
            search = self.sweeper
            assert search.storage is not None
            study = optuna.load_study(study_name=search.study_name, storage=search.storage)
            if study.get_trials(deepcopy=False, states=[TrialState.COMPLETE]):
                raise
            raise SystemExit(FAILED_STATUS) from None
