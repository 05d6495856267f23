"""Variants that share one demand: which form a group, and ceilings over all of them."""
