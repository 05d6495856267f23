"""Formulas as straight-line code of floats."""
