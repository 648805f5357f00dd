"""MLflow as a tracker: a run of its own for each record, a parent for each sweep, and what only MLflow still has."""
