"""Variants of one model that share its demand: mixes of least cost, and variants that no node takes."""
