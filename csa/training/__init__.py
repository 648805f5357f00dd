"""The one loop, schedules, checkpoints, evaluation."""
