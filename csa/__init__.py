"""csa: long-tailed image recognition, from one line to the paper's tables."""

__version__ = "0.1.0"
