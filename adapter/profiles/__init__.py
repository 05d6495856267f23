"""Performance profiles of models that nobody measured here: a generated catalog, and estimates beside it."""
