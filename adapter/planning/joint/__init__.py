"""Fleets with groups or budgets: all variants are placed at once."""
