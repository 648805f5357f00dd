"""The speed of csa, as ratios to references that are measured in the same process: ``python -m benchmarks``."""
