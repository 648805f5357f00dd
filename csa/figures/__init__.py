"""Figures of the paper and of recorded runs; the only readers of both records and models."""
