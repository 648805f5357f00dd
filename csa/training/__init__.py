"""The one loop, checkpoints, evaluation."""
