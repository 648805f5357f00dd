"""Recorded runs beside published values: tables, comparisons, and the files they are written to."""
