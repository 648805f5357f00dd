"""The local record of a run, and MLflow beside it."""
