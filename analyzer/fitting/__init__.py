"""Coefficients of replicas from benchmark results."""
