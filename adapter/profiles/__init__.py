"""Estimated performance profiles of models: a generated catalog, and an estimator for other models."""
