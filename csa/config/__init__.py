"""Typed schema, validation of all faults at once, and the identity of a run. Imports no torch."""
